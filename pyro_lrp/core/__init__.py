"""Common helpers: errors, random seeds, gradients, modes of modules, files, trees and checkpoints."""
