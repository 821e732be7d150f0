"""The operators that sum samples without a filter, on canonical views of NumPy arrays.

``cudeform/sums_geometry.py`` defines the views. Images whose channels are adjacent are read in
place, and there are no columns.
"""

from cudeform.cpu.sums.forward import sums_forward

__all__ = ["sums_forward"]
