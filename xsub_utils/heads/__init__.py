"""Attention heads: gates, removal, importance, masks, and the search for a subnetwork."""
