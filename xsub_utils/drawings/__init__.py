"""The drawings of the notebooks: one module a notebook, each function a figure of one tidy table."""

from xsub_utils.drawings import finetuning, languages, pruning, similarity, stitching

__all__ = ["finetuning", "languages", "pruning", "similarity", "stitching"]
