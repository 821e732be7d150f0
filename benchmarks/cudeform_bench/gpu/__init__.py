"""The benchmark on a GPU: contestants on torch tensors, timing, model, report."""
