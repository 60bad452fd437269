"""Ground: errors, random seeds, gradients, files and checkpoints. Knows nothing of models."""
