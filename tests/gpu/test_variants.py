"""Whatever is compiled in, widths of indices and vectors and sizes of groups, results are right."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from cases import DTYPES, build
from support.gpu_cases import assert_all_agree, cast
from support.gpu_engine import NewDevice, backward, everything, fits_direct

from cudeform.gpu import call
from cudeform.gpu.algorithms import direct
from cudeform.gpu.device_api.kernel_source import Variant, widest
from cudeform.options import Options

# Several blocks of samples.
LARGE = build(
    "large",
    channels=16,
    size=(7, 9),
    out_channels=6,
    groups=2,
    offset_groups=2,
    batch=1,
)

LARGE_DIRECT = build(
    "large, direct",
    channels=16,
    size=(7, 9),
    out_channels=16,
    groups=16,
    offset_groups=2,
    batch=1,
)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch, index_bits: int, vector: str) -> dict[str, set[Variant]]:
    """Forces index and vector widths; what was compiled, by name of the module that chose it."""
    seen: dict[str, set[Variant]] = {}

    def force(module: Any) -> None:
        def forced(dtype: str, _: int, most: int, *groups: int) -> Variant:
            variant = Variant(dtype, index_bits, most if vector == "widest" else 1, *groups)
            seen.setdefault(module.__name__.split(".")[-1], set()).add(variant)
            return variant

        monkeypatch.setattr(module, "Variant", forced)

    force(call)
    force(direct)
    return seen


@pytest.mark.promise("large")
@pytest.mark.each_value
@pytest.mark.parametrize("vector", ["widest", "one"])
@pytest.mark.parametrize("index_bits", [32, 64])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_variant(
    new_device: NewDevice,
    taken: dict[str, set[Variant]],
    dtype: str,
    index_bits: int,
    vector: str,
) -> None:
    wide = widest(dtype) if vector == "widest" else 1
    for case in (cast(LARGE, dtype), cast(LARGE_DIRECT, dtype)):
        assert_all_agree(everything(new_device(), case), case)
    assert taken == {
        "call": {Variant(dtype, index_bits, wide)},
        "direct": {Variant(dtype, index_bits, wide, 1, 1)},
    }
    case = cast(LARGE, dtype)
    assert_all_agree(backward(new_device(), case, Options(deterministic=True)), case)


SMALL_GROUPS = [
    (group_in, group_out)
    for group_in, group_out in product(range(1, direct.MAX_PRODUCT + 1), repeat=2)
    if group_in * group_out <= direct.MAX_PRODUCT
]


@pytest.mark.slow
@pytest.mark.parametrize(("group_in", "group_out"), SMALL_GROUPS)
def test_every_small_group(new_device: NewDevice, group_in: int, group_out: int) -> None:
    for groups in (3, 8):  # one channel at a time, and vectors
        case = build(
            f"{groups} of {group_in} to {group_out}",
            channels=groups * group_in,
            out_channels=groups * group_out,
            groups=groups,
            batch=1,
        ).cast("float32")
        assert fits_direct(case)
        assert_all_agree(everything(new_device(), case), case)


def test_larger_groups_have_columns() -> None:
    case = build("2 to 3", channels=6, out_channels=9, groups=3)
    assert not fits_direct(case)
    # A group that lies in two offset groups has no one place to sample.
    case = build("across", channels=6, out_channels=3, groups=3, offset_groups=6)
    assert not fits_direct(case)
