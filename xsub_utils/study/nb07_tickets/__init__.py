"""Notebook 07: lottery tickets."""
