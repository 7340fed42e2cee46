"""The drawings of the notebooks: one module a notebook, each function a figure of one tidy table."""

from xsub_utils.drawings import attribution, finetuning, languages, pruning, similarity, sparse, stitching, tickets

__all__ = ["attribution", "finetuning", "languages", "pruning", "similarity", "sparse", "stitching", "tickets"]
