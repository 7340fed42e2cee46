"""Notebook 00: the invented languages."""
