"""Model stitching: the lower layers of one model, a linear map, the upper layers of another."""
