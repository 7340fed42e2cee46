"""Notebook 03: how alike the subnetworks are."""
