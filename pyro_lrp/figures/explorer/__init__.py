"""Explore a trained run in a browser: :class:`Explorer` answers, the other modules show the answers."""

from pyro_lrp.figures.explorer.answers import Point
from pyro_lrp.figures.explorer.explorer import Explorer

__all__ = ["Explorer", "Point"]
