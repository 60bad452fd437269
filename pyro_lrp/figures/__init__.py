"""Figures: grids and strips of images, plots of latent spaces, and the figures of the paper."""

from pyro_lrp.figures.images import grid, save_gif, save_picture, strips
from pyro_lrp.figures.plots import change_bands, forces, latent_spaces
from pyro_lrp.figures.style import PALETTE, save_figure

__all__ = [
    "PALETTE",
    "change_bands",
    "forces",
    "grid",
    "latent_spaces",
    "save_figure",
    "save_gif",
    "save_picture",
    "strips",
]
