"""Sparse fine-tuning: each language updates its own subnetwork, or a few weights that are kept as a difference."""

from xsub_utils.sft.delta import SparseDelta, apply_delta, load_delta, save_delta, sparse_delta, sum_deltas
from xsub_utils.sft.training import sparse_finetune

__all__ = [
    "SparseDelta",
    "apply_delta",
    "load_delta",
    "save_delta",
    "sparse_delta",
    "sparse_finetune",
    "sum_deltas",
]
