"""Cases of the GPU engine's tests, and the comparison of its results."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import combinations
from typing import Any

import pytest
from cases import SAME, Case, build
from checks import assert_agrees
from hostcuda import HostDevice
from reference import Sum, reference

from cudeform.checks import GRADIENTS
from cudeform.options import Options

# Five images that chunks may be cut from: one call for each way of a convolution.
COLUMNS = build(
    "chunks",
    channels=8,
    size=(9, 8),
    out_channels=10,
    groups=2,
    offset_groups=2,
    padding=SAME,
    batch=5,
)

DEPTHWISE = build(
    "direct",
    channels=16,
    size=(9, 8),
    out_channels=16,
    groups=16,
    offset_groups=2,
    padding=SAME,
    batch=5,
)

FUSED = build("fused", channels=16, out_channels=32, padding=SAME, batch=5)

# Many channels at a time, every dtype's.
WIDE = [
    build("2 offset groups of 8 channels", channels=16, offset_groups=2, bias=False),
    build("groups of 16 and of 8", channels=48, groups=3, offset_groups=6, out_channels=6, batch=1),
    build("channels for a warp and more", channels=264, size=(4, 4), out_channels=2, batch=1),
    build("40 channels, nan and inf", channels=40, offset="nan and inf", padding=SAME),
]

# Groups of a few channels, all of which go without columns.
DIRECT = [
    build("depthwise, 48 channels", channels=48, groups=48, out_channels=48, offset_groups=3),
    build("depthwise, far", channels=16, groups=16, out_channels=16, offset="far", batch=1),
    build("depthwise, nan", channels=16, groups=16, out_channels=16, offset="nan and inf", batch=1),
    build("16 of 1 to 4", channels=16, groups=16, out_channels=64, bias=False),
    build("16 of 2 to 2", channels=32, groups=16, out_channels=32, offset_groups=2, mask=False),
    build("8 of 3 to 1", channels=24, groups=8, out_channels=8),
    build("16 of 4 to 1", channels=64, groups=16, out_channels=16, offset_groups=4),
]

VECTORS = build("vectors", channels=16, out_channels=8, groups=2, offset_groups=2)

# Gradients that may be asked for.
SUBSETS = [subset for size in range(6) for subset in combinations(GRADIENTS, size)]

# The bias's gradient is a sum of numbers as they came: the columns that it meets are ones.
ROUNDED_ONCE = ("bias",)


@cache
def expected(case: Case, boundary_grad: str = "one_sided") -> dict[str, Sum]:
    """What the definition makes of a case."""
    return reference(**case.backward_arguments, boundary_grad=boundary_grad)


@cache
def cast(case: Case, dtype: str) -> Case:
    """The case in a dtype, the same one each time: ``expected`` is worked out once."""
    return case.cast(dtype)


def assert_all_agree(
    results: dict[str, Any], case: Case, boundary_grad: str = "one_sided", what: str = ""
) -> None:
    """Compare results with the reference.

    Columns, or their gradients, are rounded to the storage dtype once and sums are once more.
    """
    sums = expected(case, boundary_grad)
    assert results.keys() <= sums.keys()
    for name, array in results.items():
        roundings = 1 if name in ROUNDED_ONCE else 2
        assert_agrees(array, sums[name], f"{case.name}: {name} {what}", roundings=roundings)


def least(run: Callable[..., Any], case: Case, options: Options) -> int:
    """The smallest workspace limit that is accepted, as the refusal of a smaller one says."""
    with pytest.raises(ValueError, match="workspace_limit must be at least") as refusal:
        run(HostDevice(), case, replace(options, workspace_limit=1))
    found = re.search(r"at least (\d+) bytes", str(refusal.value))
    assert found
    return int(found[1])
