"""The engine on NumPy arrays: sampling as a sparse product, then a matrix product, tile by tile.

A few output positions at a time go through buffers that stay in the processor's cache. Tiles are
spread over threads; what they add to a shared sum is added in the order of the tiles, so results do
not depend on the number of threads. float16 and bfloat16 are computed in float32.
"""

from cudeform.cpu.backward import backward
from cudeform.cpu.double import double_backward, jvp
from cudeform.cpu.forward import forward

__all__ = ["backward", "double_backward", "forward", "jvp"]
