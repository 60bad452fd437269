"""The Variational U-Net: its blocks, and an encoder and a decoder conditioned on a person's pose."""
