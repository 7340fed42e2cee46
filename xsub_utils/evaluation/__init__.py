"""Scores of models and of their subnetworks, and baselines."""
