"""Indices have 64 bits if 32 bits are not enough for an array or the workspace of a call."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import pytest
from cases import build
from checks import needs_compiler
from hostcuda import HostDevice
from support.gpu_cases import COLUMNS, DEPTHWISE
from support.gpu_engine import geometry, operands

from cudeform.arrays import DeviceArray, Operands
from cudeform.geometry import geometry_of
from cudeform.gpu import variants
from cudeform.gpu.algorithms import direct
from cudeform.gpu.call import Call
from cudeform.gpu.chunks import Chunk
from cudeform.gpu.device_api.conv_params import FillCells, ScanCells
from cudeform.gpu.replay.recorder import Recorder
from cudeform.gpu.variants import index_bits_of
from cudeform.options import Options

pytestmark = needs_compiler


def call_of(
    input: tuple[int, ...],
    *,
    out: tuple[int, int],
    stride: int = 1,
    images: int = 1,
    offset_strides: tuple[int, ...] | None = None,
    others: tuple[DeviceArray, ...] = (),
) -> tuple[Call, Chunk]:
    """A call with one output channel and one tap, on arrays that do not exist."""
    shapes = {"input": input, "offset": (input[0], 2, *out), "weight": (1, input[1], 1, 1)}
    strides = {
        name: tuple(prod(shape[d + 1 :]) for d in range(4)) for name, shape in shapes.items()
    }
    strides["offset"] = offset_strides or strides["offset"]
    arrays = {n: DeviceArray(4096, shapes[n], strides[n], "float16") for n in shapes}
    g = geometry_of(shapes["input"], shapes["offset"], shapes["weight"], stride=stride)
    chunk = Chunk(slice(0, images), slice(0, g.out_rows))
    return Call.by_columns(HostDevice(), g, Options(), Operands(**arrays), [chunk], others), chunk


def test_indices_have_32_bits_where_that_is_enough() -> None:
    assert call_of((1, 1, 16_000, 16_000), out=(16_000, 16_000))[0].variant.index_bits == 32


@pytest.mark.promise("large")
@pytest.mark.parametrize(
    "sizes",
    [
        {"input": (1, 1, 2**16, 2**16), "out": (2**15, 2**15), "stride": 2},
        {"input": (3, 2**20, 32, 32), "out": (32, 32)},
        # More columns than elements of any array: each row of them is padded to 16 bytes.
        {"input": (2, 1, 2**14, 2**14), "out": (2**14, 2**14), "images": 2},
        # A view of an array that is larger.
        {"input": (3, 1, 8, 8), "out": (8, 8), "offset_strides": (2**30, 64, 8, 1)},
        {
            "input": (3, 1, 8, 8),
            "out": (8, 8),
            "others": (DeviceArray(4096, (3, 1, 8, 8), (-(2**30), 64, 8, 1), "float16"),),
        },
    ],
    ids=["pixels", "channels", "columns", "offset's strides", "another's strides"],
)
def test_and_64_where_it_is_not(sizes: Any) -> None:
    assert call_of(**sizes)[0].variant.index_bits == 64


@pytest.mark.parametrize("field", ["input", "offset", "weight", "output", "columns", "span"])
def test_the_last_step_of_a_thread_does_not_overflow(field: str) -> None:
    """A grid-stride index overshoots the last element by one grid before it is compared."""
    most = variants.MAX_ELEMENTS_32
    assert most + variants.MAX_THREADS == 2**31 - 1
    g = geometry(build("any", channels=1, size=(1, 1), out_channels=1, kernel=(1, 1), batch=1))
    sizes: dict[str, dict[str, Any]] = {
        "input": {"size": (1, most), "batch": 1, "channels": 1},
        "offset": {"kernel": (1, 1), "out": (1, most // 2)},
        "weight": {"channels": most},
        "output": {"out_channels": most},
        "columns": {},
        "span": {},
    }

    def enlarged(size: Any, more: int) -> Any:
        if isinstance(size, tuple):
            return tuple(enlarged(each, more) for each in size)
        return size + more * (size > 1)

    def bits(more: int) -> int:
        changed = {n: enlarged(size, more) for n, size in sizes[field].items()}
        columns = most + more if field == "columns" else 0
        far = DeviceArray(16, (2, 1), (most - 1 + more, 1), "float16")
        arrays = [far if field == "span" else None]
        return index_bits_of(replace(g, **changed), arrays, columns)

    # Cells are counted too: of one row, there are two for each pixel.
    assert bits(-(2**30) if field == "input" else 0) == 32
    assert bits(1) == 64


def test_packed_weights_and_partial_sums_are_indexed_too() -> None:
    """Either may have more elements than any array of the call."""
    g = geometry(build("any", channels=1, size=(1, 1), out_channels=1, kernel=(1, 1), batch=1))
    array = DeviceArray(16, (1, 1, 1, 1), (1, 1, 1, 1), "float16")
    ops, chunk = Operands(array, array, array), Chunk(slice(0, 1), slice(0, 1))
    for channels, bits in ((2**27, 32), (2**29, 64)):  # eight elements for each
        many = replace(g, out_channels=channels)
        assert (
            Call.by_columns(HostDevice(), many, Options(), ops, [chunk]).variant.index_bits == bits
        )
    tall = {"kernel": (64, 64), "out": (2**8, 2**9)}
    for channels, bits in ((2**11, 32), (2**13, 64)):
        many = replace(g, channels=channels, groups=channels, out_channels=channels, **tall)
        call = direct.direct_call(HostDevice(), many, Options(), ops, [])
        assert call.variant.index_bits == bits
        assert max(map(prod, (many.offset_shape, many.output_shape))) < 2**31


def test_no_launch_has_more_threads_than_indices_allow_for() -> None:
    case, recorder = COLUMNS.cast("float32"), Recorder(HostDevice(multiprocessors=10**6))
    device = HostDevice()
    ops = operands(device, case)
    call = Call.by_columns(
        recorder, geometry(case), Options(), ops, [Chunk(slice(0, 1), slice(0, 1))]
    )
    call.launch("fill_cells", 2**40, (), FillCells(0))
    [(launch, _)] = recorder.recorded
    assert launch.blocks * launch.threads == variants.MAX_THREADS


def test_direct_kernels_leave_weights_that_they_cannot_count() -> None:
    g = geometry(DEPTHWISE)
    huge = replace(g, channels=2**28, out_channels=2**28, groups=2**28, offset_groups=1)
    assert direct.supports(g)
    assert not direct.supports(huge)


@pytest.mark.parametrize(
    ("input", "out", "stride"),
    [
        ((1, 1, 1, 2**30 + 8), (1, 2**18 + 1), 2**12),  # two rows of cells for one of pixels
        ((2**29, 2, 1, 1), (1, 1), 1),  # four cells for one pixel
    ],
    ids=["one row", "many images"],
)
def test_what_a_launch_counts_fits_its_indices(
    input: tuple[int, ...], out: tuple[int, int], stride: int
) -> None:
    call, chunk = call_of(input, out=out, stride=stride, images=input[0])
    _, c, h, w = input
    images = DeviceArray(4096, input, (c * h * w, 1, w * c, c), "float16")
    bits, cells = call.variant.index_bits, input[0] * (h + 1) * (w + 1)
    assert call.sampling(chunk, images).packed(bits, 2)["samples"][0] == call.samples(chunk)
    assert ScanCells(cells).packed(bits, 2)["cells"][0] == cells
