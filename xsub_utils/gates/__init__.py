"""Attention heads: gates that scale them, removal of those whose gate is zero, and the weights that are theirs."""

from xsub_utils.gates.places import REMOVABLE, head_shape
from xsub_utils.gates.removal import head_weights, parameter_count, remove_heads
from xsub_utils.gates.scaling import check_gates, head_gates

__all__ = [
    "REMOVABLE",
    "check_gates",
    "head_gates",
    "head_shape",
    "head_weights",
    "parameter_count",
    "remove_heads",
]
