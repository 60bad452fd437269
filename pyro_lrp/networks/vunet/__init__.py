"""The Variational U-Net: its blocks, and the encoder and decoder that see a person's pose."""
