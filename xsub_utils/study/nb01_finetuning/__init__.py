"""Notebook 01: fine-tuned models."""
