"""The loops over samples that are summed: several levels, pairs in the order (x, y)."""
