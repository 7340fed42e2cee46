"""Inference for matrices and crossed designs, and components of variance."""
