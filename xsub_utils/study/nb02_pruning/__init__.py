"""Notebook 02: a subnetwork for each language."""
