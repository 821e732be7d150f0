"""What Numba compiles: loops over the samples of some positions, on flat arrays.

They say what the kernels in ``kernels/`` say, with the same names.
"""
