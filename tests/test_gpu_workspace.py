"""How much of a call the GPU engine does at a time: memory, launches, products, bytes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import pytest
from cases import Case, build, named
from checks import assert_agrees
from gpu_engine import LoggingDevice, backward, everything, forward, geometry, operands
from hostcuda import HostDevice, Launched, compiler_path
from reference import reference

from cudeform.geometry import geometry_of
from cudeform.gpu import call as call_module
from cudeform.gpu import chunks, direct
from cudeform.gpu.call import Call, index_bits_of, leading_of
from cudeform.gpu.chunks import Chunk
from cudeform.gpu.params import Layout
from cudeform.gpu.protocol import DeviceArray
from cudeform.gpu.recorder import Recorder
from cudeform.operands import Operands
from cudeform.options import Options

pytestmark = pytest.mark.skipif(compiler_path() is None, reason="needs a C++ compiler")

CASE = build(
    "chunks",
    channels=8,
    size=(9, 8),
    out_channels=10,
    groups=2,
    offset_groups=2,
    padding=((1, 1), (1, 1)),
    batch=5,
)

DIRECT = build(
    "direct",
    channels=16,
    size=(9, 8),
    out_channels=16,
    groups=16,
    offset_groups=2,
    padding=((1, 1), (1, 1)),
    batch=5,
)

FUSED = build("fused", channels=16, out_channels=32, padding=((1, 1), (1, 1)), batch=5)


def launches(device: HostDevice) -> Counter[str]:
    return Counter(did.kernel if isinstance(did, Launched) else "gemm" for did in device.log)


def least(run: Callable[..., Any], case: Case, options: Options) -> int:
    """The smallest workspace limit that is accepted, as the refusal of a smaller one says."""
    with pytest.raises(ValueError, match="workspace_limit must be at least") as refusal:
        run(HostDevice(), case, replace(options, workspace_limit=1))
    found = re.search(r"at least (\d+) bytes", str(refusal.value))
    assert found
    return int(found[1])


# ---- the limit -----------------------------------------------------------------------------------


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("run", [forward, backward])
@pytest.mark.parametrize("case", [CASE, DIRECT], ids=["columns", "direct"])
def test_the_refusal_names_the_least_limit(
    monkeypatch: pytest.MonkeyPatch, run: Callable[..., Any], case: Case, deterministic: bool
) -> None:
    monkeypatch.setattr(chunks, "DETERMINISTIC_BYTES", 50_000)
    options, case = Options(deterministic=deterministic), case.cast("float32")
    enough = least(run, case, options)
    run(HostDevice(), case, replace(options, workspace_limit=enough))
    with pytest.raises(ValueError, match=rf"at least {enough} bytes .*, got {enough - 1}"):
        run(HostDevice(), case, replace(options, workspace_limit=enough - 1))


def nbytes(case: Case, *names: str) -> int:
    return sum(a.nbytes for name in names if (a := getattr(case, name)) is not None)


OPERANDS = ("input", "offset", "weight", "bias", "mask")


@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0, 3.0])
@pytest.mark.parametrize("case", [CASE, DIRECT], ids=["columns", "direct"])
def test_memory_stays_within_the_limit(
    monkeypatch: pytest.MonkeyPatch,
    case: Case,
    share: float,
    deterministic: bool,
    dtype: str,
    layout: str,
) -> None:
    monkeypatch.setattr(chunks, "DETERMINISTIC_BYTES", int(100_000 * share))
    case = case.cast(dtype).laid_out(layout)
    options = Options(deterministic=deterministic)
    for run in (forward, backward):
        limit = least(run, case, options) + int(100_000 * share)
        device = HostDevice()
        run(device, case, replace(options, workspace_limit=limit))
        held = nbytes(case, *OPERANDS)  # and of the same sizes, what comes out
        others = held + nbytes(case, "grad_output") if run is backward else 0
        outputs = case.grad_output.nbytes if run is forward else others
        used = device.peak_bytes - held - outputs
        assert 0 < used <= limit
        if share == 0.0 and layout == "contiguous":
            assert used > 0.9 * limit  # and no more is asked for than is used


@pytest.mark.parametrize(
    ("run", "case", "layout", "needs"),
    [
        (forward, DIRECT, "contiguous", "the weight and one image"),
        (forward, DIRECT, "channels last", "the weight"),
        (forward, FUSED, "contiguous", "the weight and one image"),
        (forward, FUSED, "channels last", "the weight"),
        (backward, DIRECT, "contiguous", "the weight, one image and one row of the output"),
        (backward, DIRECT, "channels last", "the weight and one image"),
    ],
    ids=lambda value: value.name if isinstance(value, Case) else None,
)
def test_without_columns_the_least_limit_is_what_is_held(
    run: Callable[..., Any], case: Case, layout: str, needs: str
) -> None:
    case, device = case.cast("float32").laid_out(layout), HostDevice()
    enough = least(run, case, Options())
    run(device, case, Options(workspace_limit=enough))
    outputs = case.grad_output.nbytes if run is forward else nbytes(case, *OPERANDS, "grad_output")
    assert device.peak_bytes - nbytes(case, *OPERANDS) - outputs == enough
    with pytest.raises(ValueError, match=rf"{enough} bytes .* \({needs}\), got {enough - 1}"):
        run(HostDevice(), case, Options(workspace_limit=enough - 1))


@pytest.mark.parametrize(
    ("case", "kernel"),
    [(DIRECT, "deform_direct"), (FUSED, "deform_fused")],
    ids=["direct", "fused"],
)
def test_what_is_just_enough_for_a_batch_does_not_cut_it(case: Case, kernel: str) -> None:
    case = case.cast("float32")
    weight, images = case.weight.nbytes, case.input.nbytes
    for layout, limit, pieces in (
        ("contiguous", weight + images, 1),
        ("contiguous", weight + images - 1, 2),
        ("channels last", weight, 1),
    ):
        device = HostDevice()
        forward(device, case.laid_out(layout), Options(workspace_limit=limit))
        assert launches(device)[kernel] == pieces


def test_the_default_is_a_share_of_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "LEAST_DEFAULT", 1)
    case = CASE.cast("float32")
    calls = {memory: HostDevice(memory=memory) for memory in (160_000, 320_000, 10_000_000)}
    for device in calls.values():
        forward(device, case)
    counts = [launches(device)["deform_im2col"] for device in calls.values()]
    assert counts[0] > counts[1] > counts[2] == 1


@pytest.mark.parametrize("deterministic", [False, True])
def test_results_do_not_depend_on_the_chunks(
    monkeypatch: pytest.MonkeyPatch, deterministic: bool
) -> None:
    """Whole images, some rows, one row: each chunk adds to what those before it left."""
    case = CASE.cast("float64")
    sums = reference(**case.backward_arguments)
    pieces = set()
    for room in (1_000_000, 180_000, 90_000, 60_000, 1):
        monkeypatch.setattr(chunks, "DETERMINISTIC_BYTES", room)
        device, options = HostDevice(), Options(deterministic=deterministic)
        enough = least(backward, case, options)
        limit = 2**22 if deterministic else max(enough, room)
        results = everything(device, case, replace(options, workspace_limit=limit))
        for name, array in results.items():
            assert_agrees(array, sums[name], name)
        pieces.add(launches(device)["deform_backward"])
    assert {1, 45} <= pieces  # all at once, row by row
    assert 5 in pieces  # image by image
    assert len(pieces) >= 4


# ---- chunks --------------------------------------------------------------------------------------


def pieces_of(case: Case, limit: int) -> list[Chunk]:
    costs = chunks.Costs(call=0, image=0, position=1000)
    return chunks.chunks(geometry(case), HostDevice(), Options(workspace_limit=limit), costs)


@pytest.mark.parametrize("batch", [1, 31, 32, 37, 64, 67, 97])
@pytest.mark.parametrize("most", [1, 8, 31, 32, 33])
def test_no_batch_is_worse_than_its_neighbours(batch: int, most: int) -> None:
    case = build("any", batch=batch, channels=1, size=(3, 3), out_channels=1)
    pixels = prod(case.grad_output.shape[2:])
    counts = [chunk.count for chunk in pieces_of(case, most * pixels * 1000)]
    assert sum(counts) == batch
    assert len(counts) == -(-batch // most)
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("height", [7, 32, 37])
@pytest.mark.parametrize("most", [1, 5, 8])
def test_nor_is_any_height(height: int, most: int) -> None:
    case = build("any", batch=2, channels=1, size=(height, 3), out_channels=1, kernel=(1, 1))
    pieces = pieces_of(case, min(most, height - 1) * 3 * 1000)
    rows = [chunk.height for chunk in pieces if chunk.images == slice(0, 1)]
    assert sum(rows) == height
    assert len(rows) == -(-height // min(most, height - 1))
    assert max(rows) - min(rows) <= 1
    assert len(pieces) == 2 * len(rows)


def test_37_images_take_no_more_launches_than_their_share() -> None:
    # Sixteen images fit: 32 images are 2 chunks, 37 are 3 of about 12.
    done = {}
    for batch in (32, 37):
        case = build("any", batch=batch, channels=8, size=(4, 4), out_channels=8).cast("float32")
        device = HostDevice()
        forward(device, case, Options(workspace_limit=2_560 + 16 * (512 + 4 * 320)))
        done[batch] = launches(device)
    assert done[32] == {"pack_weight": 1, "channels_last": 2, "deform_im2col": 2, "gemm": 2}
    assert done[37] == {"pack_weight": 1, "channels_last": 3, "deform_im2col": 3, "gemm": 3}


# ---- launches ------------------------------------------------------------------------------------


def test_forward_launches() -> None:
    case, device = CASE.cast("float32"), LoggingDevice()
    forward(device, case)
    assert launches(device) == {"pack_weight": 1, "channels_last": 1, "deform_im2col": 1, "gemm": 2}
    device = LoggingDevice()
    forward(device, case.laid_out("channels last"), Options(workspace_limit=18_000))
    chunks_ = launches(device)["deform_im2col"]
    assert chunks_ > 5
    assert launches(device) == {"pack_weight": 1, "deform_im2col": chunks_, "gemm": chunks_}
    assert device.zeroed == []


def test_an_image_in_many_chunks_of_rows_is_copied_once() -> None:
    device = HostDevice()
    forward(device, CASE.cast("float32"), Options(workspace_limit=18_000))
    assert launches(device)["channels_last"] == 5
    assert launches(device)["deform_im2col"] > 5


def test_one_product_for_all_images_or_all_groups() -> None:
    for batch, groups in ((7, 2), (2, 6), (1, 6), (5, 1)):
        case = build("any", channels=6, groups=groups, out_channels=30, batch=batch).cast("float32")
        device = HostDevice()
        everything(device, case)
        # Forward, and two of the backward, which take all positions at once.
        assert launches(device)["gemm"] == min(batch, groups) + 2


def test_backward_launches() -> None:
    device = LoggingDevice()
    case = CASE.cast("float32")
    backward(device, case)
    assert launches(device) == {
        "pack_weight": 1,
        "channels_last": 2,  # input and gradient of the output
        "gemm": 2,
        "deform_backward": 1,
        "channels_first": 1,
        "unpack_weight": 1,
    }
    # Only the sum that atomics add to begins with zeros.
    assert device.zeroed == [case.input.nbytes]


def test_deterministic_backward_launches() -> None:
    device, case = LoggingDevice(), CASE.cast("float32")
    backward(device, case, Options(deterministic=True))
    steps = ("count_cells", "allot_cells", "list_cells", "order_cells", "deform_gather")
    assert launches(device) == {
        "pack_weight": 1,
        "channels_last": 2,
        "gemm": 2,
        **dict.fromkeys(steps, 1),
        "deform_backward": 1,
        "channels_first": 1,
        "unpack_weight": 1,
    }
    # Only counters begin with zeros: of each cell, and of all.
    assert device.zeroed == [4 * (5 * 2 * 10 * 9 + 1)]


def test_launches_without_columns() -> None:
    case, device = DIRECT.cast("float32"), LoggingDevice()
    forward(device, case)
    # Input and weight are turned; channels-last ones are not.
    assert launches(device) == {"channels_last": 2, "deform_direct": 1}
    assert device.zeroed == []
    backward(device, case)
    assert launches(device) - Counter({"channels_last": 2, "deform_direct": 1}) == {
        "channels_last": 3,
        "deform_direct_backward": 1,
        "deform_direct_weight": 1,
        "sum_parts": 1,
        "channels_first": 1,
    }
    assert device.zeroed == [case.input.nbytes]


@pytest.mark.parametrize("needs", ["offset", "weight", "bias", "mask"])
def test_nothing_is_zeroed_without_a_gradient_of_the_input(needs: str) -> None:
    device = LoggingDevice()
    backward(device, CASE.cast("float32"), needs=(needs,))
    assert device.zeroed == []
    assert launches(device)["channels_first"] == 0
    products = {"offset": 1, "mask": 1, "weight": 1, "bias": 1}
    assert launches(device)["gemm"] == products[needs]


def test_zeros_are_written_once_for_each_image_however_many_chunks() -> None:
    device, case = LoggingDevice(), CASE.cast("float16")
    limit = least(backward, case, Options())
    backward(device, case, Options(workspace_limit=limit))
    assert launches(device)["deform_backward"] == 5 * 9
    assert device.zeroed == [2 * case.input[0].nbytes] * 5  # float32


# ---- bytes ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Model:
    """Bytes of global memory that a call has to move, all corners lying in the image."""

    columns: int  # of columns, without the ends of the rows
    corners: int  # 4 for each of these

    @classmethod
    def of(cls, case: Case) -> Model:
        g = geometry(case)
        elements = g.batch * g.out_pixels * g.taps * g.channels
        return cls(elements * case.input.itemsize, 4 * elements * case.input.itemsize)


def inside(dtype: str) -> Case:
    """A case all of whose samples lie between four pixels of the image."""
    case = build(
        "inside",
        channels=32,
        size=(10, 12),
        out_channels=4,
        stride=(2, 2),
        groups=2,
        offset_groups=2,
    )
    return replace(case, offset=np.clip(np.abs(case.offset) % 1, 0.125, 0.875)).cast(dtype)


def moved(device: HostDevice, kernel: str) -> tuple[int, int, int]:
    """Bytes that the one launch of a kernel loaded, stored and added."""
    [did] = [d for d in device.log if isinstance(d, Launched) and d.kernel == kernel]
    return did.loaded, did.stored, did.added


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
class TestBytes:
    """Of vectors of channels: the harness counts these where it does not watch races."""

    def test_forward_reads_each_corner_and_writes_each_column_once(self, dtype: str) -> None:
        case, device = inside(dtype), HostDevice()
        forward(device, case)
        model = Model.of(case)
        assert moved(device, "deform_im2col") == (model.corners, model.columns, 0)

    def test_backward_reads_columns_and_corners_once(self, dtype: str) -> None:
        case, device = inside(dtype), HostDevice()
        backward(device, case)
        model = Model.of(case)
        acc = max(4, case.input.itemsize) // case.input.itemsize
        assert moved(device, "deform_backward") == (
            model.columns + model.corners,
            model.columns,
            model.corners * acc,
        )

    def test_columns_are_not_written_back_if_nobody_needs_them(self, dtype: str) -> None:
        case, device = inside(dtype), HostDevice()
        backward(device, case, needs=("offset", "mask"))
        model = Model.of(case)
        assert moved(device, "deform_backward") == (model.columns + model.corners, 0, 0)

    def test_a_deterministic_backward_adds_nothing(self, dtype: str) -> None:
        case, device = inside(dtype), HostDevice()
        backward(device, case, Options(deterministic=True))
        model = Model.of(case)
        assert moved(device, "deform_gather") == (4 * model.columns, 0, 0)
        backward_bytes = (model.columns + model.corners, model.columns, 0)
        assert moved(device, "deform_backward") == backward_bytes


def test_geometry_is_read_once_for_each_sample() -> None:
    """A device that watches races counts every byte, those of single numbers too."""
    case, device = inside("float32"), HostDevice(races=True)
    everything(device, case)
    model, size = Model.of(case), case.input.itemsize
    ends = size * len(case.input) * prod(case.offset.shape[2:]) * 2 * 4  # bias and zeros, 2 groups
    geometry_bytes = case.offset.nbytes + case.mask.nbytes
    assert moved(device, "deform_im2col") == (
        model.corners + geometry_bytes,
        model.columns + ends,
        0,
    )
    assert moved(device, "deform_backward") == (
        model.columns + model.corners + geometry_bytes,
        model.columns + ends + geometry_bytes,  # gradients are as large
        model.corners,
    )
    assert moved(device, "channels_first")[:2] == (case.input.nbytes,) * 2


# ---- width of an index ---------------------------------------------------------------------------


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
    chunk = Chunk(slice(0, images), slice(0, g.out_h))
    return Call.of(HostDevice(), g, Options(), Operands(**arrays), [chunk], others), chunk


def test_indices_have_32_bits_where_that_is_enough() -> None:
    assert call_of((1, 1, 16_000, 16_000), out=(16_000, 16_000))[0].variant.index_bits == 32


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
    """An index is compared after it was moved on by all threads of a launch."""
    most = call_module.MOST_INDEXED
    assert most + call_module.MOST_THREADS == 2**31 - 1
    g = geometry(build("any", channels=1, size=(1, 1), out_channels=1, kernel=(1, 1), batch=1))
    sizes: dict[str, dict[str, int]] = {
        "input": {"in_h": 1, "in_w": most, "batch": 1, "channels": 1},
        "offset": {"kernel_h": 1, "kernel_w": 1, "out_w": most // 2},
        "weight": {"channels": most},
        "output": {"out_channels": most},
        "columns": {},
        "span": {},
    }

    def bits(more: int) -> int:
        changed = {n: size + more * (size > 1) for n, size in sizes[field].items()}
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
    ops, piece = Operands(array, array, array), Chunk(slice(0, 1), slice(0, 1))
    for channels, bits in ((2**27, 32), (2**29, 64)):  # eight elements for each
        many = replace(g, out_channels=channels)
        assert Call.of(HostDevice(), many, Options(), ops, [piece]).variant.index_bits == bits
    tall = {"kernel_h": 64, "kernel_w": 64, "out_h": 2**8, "out_w": 2**9}
    for channels, bits in ((2**11, 32), (2**13, 64)):
        many = replace(g, channels=channels, groups=channels, out_channels=channels, **tall)
        call = direct.call_of(HostDevice(), many, Options(), ops, [])
        assert call.variant.index_bits == bits
        assert max(map(prod, (many.offset_shape, many.output_shape))) < 2**31


def test_no_launch_has_more_threads_than_indices_allow_for() -> None:
    case, recorder = CASE.cast("float32"), Recorder(HostDevice(multiprocessors=10**6))
    device = HostDevice()
    ops = operands(device, case)
    call = Call.of(recorder, geometry(case), Options(), ops, [Chunk(slice(0, 1), slice(0, 1))])
    call.launch("deform_im2col", 2**40, (), {})
    [(_, _, what)] = recorder.asked
    assert what["blocks"] * what["threads"] == call_module.MOST_THREADS


@pytest.mark.parametrize("position", [0, 1])
def test_samples_of_a_chunk_and_their_weights_have_numbers_of_32_bits(position: int) -> None:
    g = geometry(build("any", channels=1, out_channels=1, kernel=(3, 3), batch=1))
    costs = chunks.Costs(call=0, image=0, position=position)
    many = replace(g, batch=2, out_h=2**14, out_w=2**14)
    pieces = chunks.chunks(many, HostDevice(), Options(workspace_limit=2**50), costs)
    counts = [piece.count * piece.height * many.out_w * many.taps for piece in pieces]
    assert sum(counts) == 2 * 2**28 * 9
    assert max(counts) * 4 < 2**31
    assert max(counts) * 2 * 4 > 2**31
    wide = replace(g, out_h=1, out_w=2**29 // 9 + 1)
    with pytest.raises(ValueError, match=r"OW\*KH\*KW\*offset_groups must be at most 536870911 .*"):
        chunks.chunks(wide, HostDevice(), Options(), costs)


def test_direct_kernels_leave_weights_that_they_cannot_count() -> None:
    g = geometry(DIRECT)
    huge = replace(g, channels=2**28, out_channels=2**28, groups=2**28, offset_groups=1)
    assert direct.fits(g)
    assert not direct.fits(huge)


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
    table = DeviceArray(4096, input, (c * h * w, 1, w * c, c), "float16")
    fields = call.chunk_fields(chunk, table)
    struct = Layout(call.variant.index_bits).fill(call.g, fields)
    assert struct["cells"][0] == input[0] * (h + 1) * (w + 1)


@pytest.mark.parametrize("index_bits", [32, 64])
def test_the_struct_lies_as_a_compiler_lays_it_out(index_bits: int) -> None:
    """Each field at a multiple of its own alignment, structs included."""
    launch = Layout(index_bits).launch
    index = index_bits // 8
    for name in launch.names or ():
        kind, at = launch.fields[name][:2]  # type: ignore[index]
        widest = index if kind.names == ("n", "c", "h", "w") or kind.itemsize == index else 4
        assert at % widest == 0, name
    assert launch.itemsize % index == 0


def test_rows_of_columns_are_whole_vectors() -> None:
    for name in ("torchvision, batch 33", "7 channels", "no input channels", "kernel 7x7"):
        for dtype in ("float16", "float32", "float64"):
            case = named(name).cast(dtype)
            arrays = {n: DeviceArray(0, getattr(case, n).shape, (), dtype) for n in OPERANDS}
            leading = leading_of(geometry(case), Operands(**arrays))
            assert leading * case.input.itemsize % 16 == 0
            assert leading > case.weight[0].size
