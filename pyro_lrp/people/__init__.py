"""People as joints: the geometry of poses, files of keypoints, drawn figures and their detector."""

from pyro_lrp.people.ground_truth import GroundTruth
from pyro_lrp.people.poses import JOINTS, stick_figures

__all__ = ["JOINTS", "GroundTruth", "stick_figures"]
