"""Notebook 05: attribution to training data."""
