"""Notebook 06: sparse fine-tuning."""
