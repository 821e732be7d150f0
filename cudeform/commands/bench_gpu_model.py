"""What a GPU has to do for a configuration, and how long each part takes at the least.

The constants are those of one H200; an H100 is the same but for its memory. Memory and products
were measured or published; what the first level of the cache delivers follows from its width and
clock, and the rate of additions to memory is a guess until it is measured. A report states them, so
that a share of a roofline can be judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cudeform.commands.bench_configs import Config

# Bytes or operations a second.
RATES = {
    "memory": 4.3e12,  # a copy within the device's memory
    "gather": 29.6e12,  # 132 multiprocessors, 128 bytes a cycle, 1.755 GHz
    "scatter": 2.7e12,  # float32 additions to global memory; a guess
    "fp32": 67e12,
    "tf32": 495e12,
    "fp16": 790e12,
    "bf16": 790e12,
}
H100_MEMORY = 3.0e12


def rates_of(gpu: str) -> dict[str, float]:
    """Rates of a GPU by its name; one that is not known is taken for an H200."""
    return RATES | ({"memory": H100_MEMORY} if "H100" in gpu else {})


@dataclass(frozen=True)
class Mode:
    """How numbers are stored and multiplied.

    Attributes:
        name: by which it is asked for.
        dtype: of the arrays.
        tf32: whether products of float32 may be rounded to TensorFloat-32 first.
        tolerance: largest difference to float64, in units of the largest element.
    """

    name: str
    dtype: str
    tf32: bool
    tolerance: float

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
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

# Matrix products of a direction, and how often it reads all corners.
PRODUCTS = {"forward": 1, "backward": 2, "both": 3}
GATHERS = {"forward": 1, "backward": 1, "both": 2}


def floors_us(
    config: Config, mode: Mode, direction: str, rates: Mapping[str, float] = RATES
) -> dict[str, float]:
    """Least microseconds of each resource: the larger of them bounds any implementation.

    ``memory`` counts every array once, ``gather`` the four corners of each sample, ``scatter``,
    which only a backward has, an addition for each of these.
    """
    corners = 4 * _samples(config) * config.channels
    floors = {
        "products": PRODUCTS[direction] * config.gemm_flop / rates[mode.name],
        "memory": _array_elements(config, direction) * mode.itemsize / rates["memory"],
        "gather": GATHERS[direction] * corners * mode.itemsize / rates["gather"],
    }
    if direction != "forward":
        floors["scatter"] = corners * 4 / rates["scatter"]
    return {name: 1e6 * seconds for name, seconds in floors.items()}


def shares(
    config: Config,
    mode: Mode,
    direction: str,
    microseconds: float,
    rates: Mapping[str, float] = RATES,
) -> dict[str, float]:
    """Which part of a measured time each floor is."""
    floors = floors_us(config, mode, direction, rates)
    return {name: floor / microseconds for name, floor in floors.items()}


def _samples(config: Config) -> int:
    """Output positions times taps."""
    return config.batch * config.out_height * config.out_width * config.taps


def _array_elements(config: Config, direction: str) -> int:
    positions = config.batch * config.out_height * config.out_width
    operands = config.batch * config.channels * config.height * config.width
    operands += 3 * config.offset_groups * _samples(config)  # offset and mask
    operands += config.out_channels * config.taps * config.channels // config.groups
    output = positions * config.out_channels
    # A backward reads operands and the output's gradient, and writes a gradient for each operand.
    return {
        "forward": operands + output,
        "backward": 2 * operands + output,
        "both": 3 * operands + 2 * output,
    }[direction]
