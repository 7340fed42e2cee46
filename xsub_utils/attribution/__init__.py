"""Training-data attribution with TracIn."""
