"""Functional similarity of two models: the lower layers of one, a linear map, and the upper layers of the other."""

from xsub_utils.stitching.maps import Stitched, stitch, stitch_fronts
from xsub_utils.stitching.scores import relative_accuracy, stitched_predictions, stitched_score
from xsub_utils.stitching.sites import StateCache

__all__ = [
    "StateCache",
    "Stitched",
    "relative_accuracy",
    "stitch",
    "stitch_fronts",
    "stitched_predictions",
    "stitched_score",
]
