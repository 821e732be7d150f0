"""The loops that Numba compiles: they process the samples of a range of positions, on flat arrays.

They compute what the kernels in ``kernels/`` compute, and use the same names.
"""
