"""The benchmark on a CPU: contestants on NumPy arrays, timing, report."""
