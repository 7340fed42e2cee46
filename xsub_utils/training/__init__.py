"""Fine-tuning: full, through subnetworks, sparse, and of lottery tickets."""
