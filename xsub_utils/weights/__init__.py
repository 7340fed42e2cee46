"""Masks of single weights: what can be pruned, and by which criterion."""
