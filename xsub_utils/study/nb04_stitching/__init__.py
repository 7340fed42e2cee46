"""Notebook 04: stitched models."""
