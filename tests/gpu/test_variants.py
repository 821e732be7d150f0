"""Every variant of the kernels gives right results: widths of indices and vectors, small groups."""

from __future__ import annotations

from itertools import product

import pytest
from cases import DTYPES, Case, build
from checks import needs_compiler
from support.gpu_cases import assert_all_agree, cast
from support.gpu_engine import LoggingDevice, NewDevice, backward, everything, fits_direct

from cudeform.gpu import variants
from cudeform.gpu.algorithms import direct
from cudeform.gpu.device_api.kernel_source import widest
from cudeform.options import Options


def columns(channels: int) -> Case:
    """A case of several blocks of samples, by columns."""
    return build(
        f"{channels} channels",
        channels=channels,
        size=(7, 9),
        out_channels=6,
        groups=2,
        offset_groups=2,
        batch=1,
    )


def depthwise(channels: int) -> Case:
    """A case of several blocks of samples, by the direct kernels."""
    return build(
        f"{channels} channels, depthwise",
        channels=channels,
        size=(7, 9),
        out_channels=channels,
        groups=channels,
        offset_groups=2,
        batch=1,
    )


# Channels that come in vectors of 16 bytes in every dtype, and channels that do not.
VECTORS, SINGLE = 16, 14


@pytest.fixture(params=[32, 64])
def index_bits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Width of indices; the small arrays of the tests count as too large for 32 bits."""
    if request.param == 64:
        monkeypatch.setattr(variants, "MAX_ELEMENTS_32", 0)
    bits: int = request.param
    return bits


@pytest.mark.slow
@pytest.mark.usefixtures("index_bits")
@pytest.mark.parametrize("channels", [VECTORS, SINGLE])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_variant(new_device: NewDevice, dtype: str, channels: int) -> None:
    case = cast(columns(channels), dtype)
    assert_all_agree(everything(new_device(), case), case)
    assert_all_agree(backward(new_device(), case, Options(deterministic=True)), case)
    case = cast(depthwise(channels), dtype)
    assert_all_agree(everything(new_device(), case), case)


@pytest.mark.promise("large")
@needs_compiler
@pytest.mark.parametrize("channels", [VECTORS, SINGLE])
def test_the_variant_is_compiled_in(index_bits: int, channels: int) -> None:
    device = LoggingDevice()
    for case in (cast(columns(channels), "float32"), cast(depthwise(channels), "float32")):
        assert_all_agree(everything(device, case), case)
    vector = widest("float32") if channels == VECTORS else 1
    for kernel in ("deform_im2col", "deform_backward", "deform_direct", "deform_direct_backward"):
        text = device.texts[kernel]
        assert f"#define VECTOR {vector}\n" in text
        assert f"typedef {'long long' if index_bits == 64 else 'int'} index_t;" in text
    assert "#define GROUP_IN 1\n#define GROUP_OUT 1\n" in device.texts["deform_direct"]
    assert "GROUP_IN 1" not in device.texts["deform_im2col"]


SMALL_GROUPS = [
    (group_in, group_out)
    for group_in, group_out in product(range(1, direct.MAX_PRODUCT + 1), repeat=2)
    if group_in * group_out <= direct.MAX_PRODUCT
]


@pytest.mark.slow
@pytest.mark.parametrize(("group_in", "group_out"), SMALL_GROUPS)
def test_every_small_group(new_device: NewDevice, group_in: int, group_out: int) -> None:
    for groups in (3, 8):  # single channels, and vectors
        case = build(
            f"{groups} of {group_in} to {group_out}",
            channels=groups * group_in,
            out_channels=groups * group_out,
            groups=groups,
            batch=1,
        ).cast("float32")
        assert fits_direct(case)
        assert_all_agree(everything(new_device(), case), case)
