"""People as joints: the geometry of poses, files of keypoints, drawn figures and their detector."""
