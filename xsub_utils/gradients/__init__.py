"""Gradients of single examples, exact, from one backward pass."""
