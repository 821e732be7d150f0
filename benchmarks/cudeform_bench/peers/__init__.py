"""The peers on torch tensors, for CPU and GPU."""
