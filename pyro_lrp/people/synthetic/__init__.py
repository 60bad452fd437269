"""Synthetic people: random poses and appearances, drawings of them, and a detector of their markers."""

from pyro_lrp.people.synthetic.appearance import MARKERS, PATTERNS, Appearance, Marker
from pyro_lrp.people.synthetic.drawing import draw_figure, draw_people
from pyro_lrp.people.synthetic.markers import find_markers, marker_places
from pyro_lrp.people.synthetic.random_poses import random_pose

__all__ = [
    "MARKERS",
    "PATTERNS",
    "Appearance",
    "Marker",
    "draw_figure",
    "draw_people",
    "find_markers",
    "marker_places",
    "random_pose",
]
