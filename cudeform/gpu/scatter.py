"""How the shares of samples are summed into the gradient of the input.

* ``scalar``: additions to global memory, a number at a time, in no fixed order.
* ``vector``: the same, four float32 numbers at a time (``red.global.add.v4.f32``).
* ``gather``: no additions to memory; each pixel sums what a sorted list names, in its order.
* ``tiles``: a block sums a window of the image in shared memory and adds that to global memory,
  as above, in no fixed order. Where not even the least window fits, where a convolution goes the
  way of ``direct``, and in gradients of gradients, it is ``vector`` or ``scalar``.

The rule: ``gather`` where results shall be deterministic; else ``vector`` where the processor can
(compute capability 9.0 and later), sums are float32 and channels come in runs; else ``scalar``.
``tiles`` is never chosen, only forced: it saves most additions where displacements are small, but
whether these cost more than its passes through shared memory has not been measured.
"""

from __future__ import annotations

from cudeform.gpu.choice import Choice
from cudeform.options import Options

SCATTERS = ("scalar", "vector", "gather", "tiles")
VECTOR_CAPABILITY = 90
VECTOR_ADDS = 4

_scatter = Choice("scatter", SCATTERS)
forced = _scatter.forced
forced_scatter = _scatter.get


def gathers(options: Options) -> bool:
    """Whether a call gathers; deterministic ones do, whatever is forced."""
    return options.deterministic or forced_scatter() == "gather"


def owns(options: Options) -> bool:
    """Whether a call sums in tiles, where they fit."""
    return not options.deterministic and forced_scatter() == "tiles"


def adds_of(dtype: str, vector: int, capability: int) -> int:
    """Neighbours that one addition to memory takes.

    Args:
        dtype: of the arrays; sums are float64 for float64 and float32 for the others.
        vector: channels that a thread has at a time.
        capability: such as 90 for sm_90.
    """
    able = capability >= VECTOR_CAPABILITY and dtype != "float64" and vector % VECTOR_ADDS == 0
    return VECTOR_ADDS if able and forced_scatter() != "scalar" else 1
