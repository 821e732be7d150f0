"""Lower bounds of the time of a configuration on a GPU, one for each resource.

The rates are those of an H200. An H100 differs only in the rate of its memory. The rates of memory
and of products are measured or published values. The rate of the L1 cache follows from its width
and clock. The rate of additions to global memory is a guess, because it has not been measured. A
report lists all rates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from cudeform_bench.configs import Config

# Bytes or operations per second.
RATES = {
    "memory": 4.3e12,  # bandwidth of a copy in device memory
    "gather": 29.6e12,  # 132 multiprocessors, 128 bytes a cycle, 1.755 GHz
    "scatter": 2.7e12,  # float32 additions to global memory; a guess
    "fp32": 67e12,
    "tf32": 495e12,
    "fp16": 790e12,
    "bf16": 790e12,
}
H100_MEMORY = 3.0e12


def rates_of(gpu: str) -> dict[str, float]:
    """Rates of a GPU by its name; an unknown GPU gets those of an H200."""
    return RATES | ({"memory": H100_MEMORY} if "H100" in gpu else {})


@dataclass(frozen=True)
class Mode:
    """The dtype of the arrays and the precision of the products.

    Attributes:
        name: its name for ``--mode``.
        dtype: dtype of the arrays.
        tf32: whether operands of float32 products may be rounded to TF32.
        tolerance: largest difference allowed from float64, relative to the largest element.
    """

    name: str
    dtype: str
    tf32: bool
    tolerance: float

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return 4 if self.dtype == "float32" else 2


MODES = {
    mode.name: mode
    for mode in (
        Mode("fp32", "float32", False, 1e-4),
        Mode("tf32", "float32", True, 5e-3),
        Mode("fp16", "float16", False, 5e-3),
        Mode("bf16", "bfloat16", False, 4e-2),
    )
}

# The number of times that a direction reads all corners, and adds to all of them: of a convolution,
# and of a transposed one, whose forward adds and whose backward reads.
GATHERS = {False: {"forward": 1, "backward": 1, "both": 2}, True: {"backward": 1, "both": 1}}
SCATTERS = {False: {"backward": 1, "both": 1}, True: {"forward": 1, "both": 1}}


def floors_us(
    config: Config, mode: Mode, direction: str, rates: Mapping[str, float] = RATES
) -> dict[str, float]:
    """Lower bound of the time for each resource, in microseconds.

    The largest of them bounds every implementation. ``memory`` counts every array once, ``gather``
    counts the corners of each sample that are read, and ``scatter`` those that are added to. A
    direction that reads no corners, or adds to none, has no such bound.
    """
    corners = 2**config.axes * config.samples * config.image_channels
    floors = {
        "products": config.product_flop(direction) / rates[mode.name],
        "memory": _array_elements(config, direction) * mode.itemsize / rates["memory"],
        "gather": _passes(GATHERS, config, direction) * corners * mode.itemsize / rates["gather"],
        "scatter": _passes(SCATTERS, config, direction) * corners * 4 / rates["scatter"],
    }
    return {name: 1e6 * seconds for name, seconds in floors.items() if seconds > 0}


def _passes(of: Mapping[bool, Mapping[str, int]], config: Config, direction: str) -> int:
    return of[config.transposed].get(direction, 0)


def shares(
    config: Config,
    mode: Mode,
    direction: str,
    microseconds: float,
    rates: Mapping[str, float] = RATES,
) -> dict[str, float]:
    """Each lower bound as a fraction of a measured time."""
    floors = floors_us(config, mode, direction, rates)
    return {name: floor / microseconds for name, floor in floors.items()}


def _array_elements(config: Config, direction: str) -> int:
    operands, output = config.operand_elements, prod(config.output_shape)
    # A backward reads the operands and grad_output, and writes a gradient for each operand.
    return {
        "forward": operands + output,
        "backward": 2 * operands + output,
        "both": 3 * operands + 2 * output,
    }[direction]
