"""The benchmark on a GPU: contestants on torch tensors, and how they are timed."""
