"""The engine on NumPy arrays: loops compiled by Numba and BLAS products, box by box.

Results do not depend on the number of threads. float16 and bfloat16 arrays are computed in float32.
"""

from cudeform.cpu.arithmetic import Arithmetic
from cudeform.cpu.backward import backward
from cudeform.cpu.forward import forward
from cudeform.cpu.second_order import double_backward, jvp
from cudeform.cpu.sums import sums_backward, sums_double_backward, sums_forward, sums_jvp

__all__ = [
    "Arithmetic",
    "backward",
    "double_backward",
    "forward",
    "jvp",
    "sums_backward",
    "sums_double_backward",
    "sums_forward",
    "sums_jvp",
]
