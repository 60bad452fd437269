"""People in poses: the geometry of joints, files of keypoints, synthetic people and their ground truth."""

from pyro_lrp.people.ground_truth import GroundTruth
from pyro_lrp.people.keypoints import Keypoints, read_keypoints
from pyro_lrp.people.poses import JOINTS, complete, stick_figures

__all__ = [
    "JOINTS",
    "GroundTruth",
    "Keypoints",
    "complete",
    "read_keypoints",
    "stick_figures",
]
