"""The operators that sum samples without a filter, on canonical views of NumPy arrays.

``cudeform/sums_geometry.py`` defines the views. Images whose channels are adjacent are read in
place, and there are no columns.
"""

from cudeform.cpu.sums.backward import sums_backward
from cudeform.cpu.sums.forward import sums_forward
from cudeform.cpu.sums.second_order import sums_double_backward, sums_jvp

__all__ = ["sums_backward", "sums_double_backward", "sums_forward", "sums_jvp"]
