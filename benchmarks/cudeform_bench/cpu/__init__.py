"""The benchmark on a CPU: contestants on NumPy arrays, and how they are timed."""
