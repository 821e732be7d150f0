"""Owned tiles: right wherever samples fall, and as sparing as the model says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytest
from cases import CASES, DTYPES, LAYOUTS, OFFSETS, Case, build, named, random_cases
from checks import assert_agrees
from gpu_engine import (
    TestDevice,
    backward,
    geometry,
    through_columns,
    widened,
)
from hostcuda import HostDevice, Launched
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference import Sum, reference

from cudeform.commands.bench_configs import GPU, Config
from cudeform.commands.bench_gpu_forced import geometry as geometry_of_config
from cudeform.gpu import call, scatter, tiles
from cudeform.gpu.source import Variant, read, widest
from cudeform.gpu.tiles import AHEAD, MOST_REACH, MOST_SHARED_BYTES, SIDE, Window, window_of
from cudeform.options import BOUNDARY_GRADS, Options

NewDevice = Callable[..., TestDevice]

SAME = ((1, 1), (1, 1))

# Several tiles, the last of each line and column narrower, and channels for several runs.
LARGE = build(
    "large",
    channels=40,
    size=(19, 21),
    out_channels=4,
    groups=2,
    offset_groups=2,
    padding=SAME,
    batch=1,
)
ACROSS = build("runs across groups", channels=80, size=(9, 11), offset_groups=5, batch=1)
MANY = build("many offset groups", channels=40, size=(9, 10), offset_groups=40, batch=1)
STEPS = build(
    "stride and dilation",
    channels=16,
    size=(40, 33),
    stride=(3, 2),
    dilation=(1, 2),
    padding=((2, 0), (0, 3)),
    batch=2,
)
SEVERAL = [LARGE, ACROSS, MANY, STEPS]
by_name = pytest.mark.parametrize("case", SEVERAL, ids=lambda case: case.name)


@pytest.fixture(autouse=True)
def forced() -> Iterator[None]:
    with scatter.forced("tiles"), through_columns():
        yield


@cache
def expected(case: Case) -> Sum:
    return reference(**case.backward_arguments)["input"]


@cache
def cast(case: Case, dtype: str) -> Case:
    return case.cast(dtype)


def grad_input(device: TestDevice, case: Case, options: Options | None = None, **more: Any) -> Any:
    return backward(device, case, options, needs=("input",), **more)["input"]


def assert_right(device: TestDevice, case: Case, options: Options | None = None) -> None:
    assert_agrees(grad_input(device, case, options), expected(case), case.name, roundings=2)


def launches(device: HostDevice) -> list[Launched]:
    return [did for did in device.log if isinstance(did, Launched) and did.kernel == "deform_tiles"]


# ---- the result ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_named_cases(new_device: NewDevice, case: Case, dtype: str) -> None:
    assert_right(new_device(), cast(case, dtype))


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", DTYPES)
@by_name
def test_several_tiles(new_device: NewDevice, case: Case, dtype: str, capability: int) -> None:
    device, case = new_device(compute_capability=capability), cast(case, dtype)
    assert_right(device, case)
    if isinstance(device, HostDevice):
        assert len(launches(device)) == 1


@pytest.mark.parametrize("offset", OFFSETS)
def test_displacements_of_every_kind(new_device: NewDevice, offset: str) -> None:
    """Several images, all larger than a window, so that some samples fall beyond."""
    case = build(f"{offset} in tiles", channels=8, size=(20, 19), padding=SAME, offset=offset)
    for dtype in ("float32", "float16"):
        assert_right(new_device(compute_capability=90), cast(case, dtype))


@pytest.mark.parametrize("boundary_grad", BOUNDARY_GRADS)
def test_all_gradients_come_out(new_device: NewDevice, boundary_grad: Any) -> None:
    case = named("offset half").cast("float32")
    results = backward(new_device(), case, Options(boundary_grad=boundary_grad))
    sums = reference(**case.backward_arguments, boundary_grad=boundary_grad)
    for name, array in results.items():
        assert_agrees(array, sums[name], name, roundings=2)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_gradients_and_masks_that_are_no_numbers_reach_their_pixels(
    new_device: NewDevice, bad: float
) -> None:
    """Also such as sit in the window alone, and such as fall beyond it."""
    for name, offset in product(("grad_output", "mask"), ("small", "large", "whole")):
        case = build(f"bad {offset}", size=(20, 20), padding=SAME, offset=offset, batch=1)
        case = case.cast("float32")
        array = getattr(case, name)
        array[0, 0, 3, 4] = array[0, 0, 17, 18] = bad
        result = grad_input(new_device(), case)
        with scatter.forced("scalar"):
            plain = grad_input(new_device(), case)
        assert not np.isfinite(plain).all()
        np.testing.assert_allclose(result, plain, rtol=1e-4, atol=1e-5)


@given(
    case=random_cases(),
    dtype=st.sampled_from(list(DTYPES)),
    layout=st.sampled_from(list(LAYOUTS)),
    flush=st.sampled_from(["start", "end"]),
    seed=st.integers(0, 99),
    wide=st.booleans(),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_random_cases(
    new_device: NewDevice, case: Case, dtype: str, layout: str, flush: str, seed: int, wide: bool
) -> None:
    case = widened(case, widest(dtype)) if wide else case
    assert_right(new_device(flush=flush, seed=seed), case.cast(dtype).laid_out(layout))


@pytest.mark.parametrize("index_bits", [32, 64])
@pytest.mark.parametrize("vector", ["widest", "one"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_variant(
    new_device: NewDevice,
    monkeypatch: pytest.MonkeyPatch,
    dtype: str,
    vector: str,
    index_bits: int,
) -> None:
    def variant(dtype: str, _: int, most: int) -> Variant:
        return Variant(dtype, index_bits, most if vector == "widest" else 1)

    monkeypatch.setattr(call, "Variant", variant)
    assert_right(new_device(compute_capability=90), cast(LARGE, dtype))


# ---- how work is cut -----------------------------------------------------------------------------


@by_name
def test_no_races(monkeypatch: pytest.MonkeyPatch, case: Case) -> None:
    """One block takes several tiles, and its plans and its window again and again."""
    monkeypatch.setattr(call, "BLOCKS_PER_MULTIPROCESSOR", 1)
    device = HostDevice(races=True, multiprocessors=1, compute_capability=90)
    assert_right(device, cast(case, "float32"))
    [did] = launches(device)
    assert did.blocks == 1


@pytest.mark.parametrize("seed", range(3))
def test_any_order_of_threads(seed: int) -> None:
    assert_right(HostDevice(seed=seed, multiprocessors=1), cast(LARGE, "float16"))


@pytest.mark.parametrize("rows", [False, True])
def test_chunks(rows: bool) -> None:
    """Of whole images, and of rows, of which those behind the first add to what there is."""
    case = replace(LARGE, **{n: np.concatenate([a] * 3) for n, a in batched(LARGE).items()})
    case, device = case.cast("float32"), HostDevice()
    assert_right(device, case, Options(workspace_limit=300_000 if rows else 900_000))
    count = len(launches(device))
    assert count > 3 if rows else count in (2, 3)


def batched(case: Case) -> dict[str, Any]:
    return {name: getattr(case, name) for name in ("input", "offset", "mask", "grad_output")}


# ---- the window ----------------------------------------------------------------------------------


def test_the_sizes_of_three_by_three_taps() -> None:
    g = geometry_of_config(Config("a layer", 2, 128, 100, 168, 128))
    window = window_of(g, 4, 8)
    assert window == Window(32, 3, 17, 17, 96, 1, 4)
    assert window.shared_bytes == 17 * 17 * 32 * 4 + 2 * 96 * 32 == 43136


def test_what_does_not_fit_is_left_out() -> None:
    def of(itemsize: int, vector: int = 8, **changes: Any) -> tuple[int, int] | None:
        config = replace(Config("a layer", 2, 128, 100, 168, 128), **changes)
        window = window_of(geometry_of_config(config), itemsize, vector)
        return None if window is None else (window.lanes, window.reach)

    assert of(4) == (32, 3)
    assert of(8) == (32, 0)  # first reach
    assert of(4, kernel=7) == (32, 1)
    assert of(4, stride=2) == (32, 0)
    assert of(4, stride=3) == (16, 0)  # then channels
    assert of(4, kernel=27) == (8, 0)
    assert of(4, kernel=31) is None
    assert of(4, kernel=41, height=13, width=13) == (32, 3)  # the window is the image
    assert of(4, channels=40) == (24, 3)  # runs of like length
    assert of(4, channels=5, vector=1) == (5, 3)
    assert of(4, channels=0) is None


def test_windows_fit_and_lie_in_the_image() -> None:
    for config, itemsize in product(GPU, (4, 8)):
        g = geometry_of_config(config)
        vector = 2 if itemsize == 8 else 8
        window = window_of(g, itemsize, vector)
        assert window is not None
        assert window.shared_bytes <= MOST_SHARED_BYTES
        assert window.lanes % vector == 0
        assert window.pairs % AHEAD == 0
        assert (window.height, window.width) <= (g.in_h, g.in_w)
        most = {
            (c + window.lanes - 1) // run - c // run + 1
            for run in [g.channels // g.offset_groups]
            for c in range(0, g.channels - window.lanes + 1, window.lanes)
        }
        assert max(most) <= window.groups


def test_the_kernel_has_the_same_threads() -> None:
    text = read("deform_tiles.cu")
    assert f"WALKERS = {tiles.WALKERS}, PLANNERS = {tiles.PLANNERS};" in text
    assert f"AHEAD = {AHEAD};" in text


def test_without_room_for_a_window_global_memory_is_added_to() -> None:
    case = build("far apart", kernel=(2, 2), size=(75, 75), dilation=(70, 70), channels=16, batch=1)
    device = HostDevice()
    assert_right(device, case.cast("float32"))
    assert launches(device) == []


# ---- what is added -------------------------------------------------------------------------------


def placed(reach: float, *, size: int = 24) -> Case:
    """Displacements of up to a reach, to between four pixels."""
    case = build("placed", channels=8, size=(size, size), padding=SAME, batch=1)
    rng = np.random.default_rng(0)
    offset = rng.integers(-int(reach), int(reach), case.offset.shape) + 0.5
    return replace(case, offset=offset).cast("float32")


def added(case: Case) -> int:
    device = HostDevice(compute_capability=90)
    grad_input(device, case)
    [did] = launches(device)
    return did.added


def plainly_added(case: Case) -> int:
    device = HostDevice(compute_capability=90)
    with scatter.forced("vector"):
        grad_input(device, case)
    [did] = [d for d in device.log if isinstance(d, Launched) and d.kernel == "deform_backward"]
    return did.added


def test_within_reach_nothing_but_windows_is_added() -> None:
    case = placed(MOST_REACH)
    squares, side = (24 // SIDE) ** 2, SIDE + 2 + 1 + 2 * MOST_REACH
    assert_right(HostDevice(), case)
    assert added(case) <= squares * side**2 * 8 * 4


def test_windows_lie_where_the_rows_of_a_chunk_are() -> None:
    case, device = placed(MOST_REACH), HostDevice()
    grad_input(device, case, Options(workspace_limit=80_000))
    assert len(launches(device)) > 3
    side = SIDE + 2 + 1 + 2 * MOST_REACH
    for did in launches(device):
        assert did.added <= did.blocks * side**2 * 8 * 4


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(
    ("first", "begin", "end"),
    [(16, 13, 28), (0, 0, 15), (32, 25, 40)],
    ids=["in the middle", "moved from the one border", "and from the other"],
)
def test_a_window_reaches_so_far(first: int, begin: int, end: int, axis: int) -> None:
    """Two samples fall on the same place: pixels in the window are added once, others twice."""
    case = build("reach", channels=4, size=(40, 40), kernel=(1, 1), batch=1, mask=False)
    offset, grad = np.zeros(case.offset.shape), np.zeros(case.grad_output.shape)
    across = np.arange(40)[first : first + 2]
    at = (across, 20) if axis == 0 else (20, across)
    grad[:, :, at[0], at[1]] = 1.0
    case = replace(case, grad_output=grad)
    # In the middle of a pixel's upper and lower neighbour: those before the image are none.
    for place in (begin - 0.5, begin + 0.5, end - 1.5, end - 0.5):
        offset[0, axis, at[0], at[1]] = place - across
        pixels = [y for y in (int(np.floor(place)), int(np.floor(place)) + 1) if 0 <= y < 40]
        times = sum(1 if begin <= y < end else 2 for y in pixels)
        here = replace(case, offset=offset).cast("float32")
        assert added(here) == times * 4 * 4, place


def test_cells_that_nothing_fell_on_are_not_added() -> None:
    case = placed(MOST_REACH)
    assert added(replace(case, grad_output=np.zeros_like(case.grad_output))) == 0


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_additions_are_those_of_the_model(dtype: str) -> None:
    """Normal displacements of 2 pixels: 36 for each position and channel become about 4."""
    case = build("normal", channels=8, size=(58, 58), out_channels=4, batch=1)
    normal = 2 * np.random.default_rng(0).standard_normal(case.offset.shape)
    case = replace(case, offset=(np.floor(normal * 256) + 0.5) / 256).cast(dtype)
    each = 56 * 56 * 8 * 4
    assert 3.5 < added(case) / each < 4.1
    assert 34 < plainly_added(case) / each < 36


def test_columns_are_read_once() -> None:
    case, device = cast(ACROSS, "float16"), HostDevice(races=True)
    assert_right(device, case)
    [did] = launches(device)
    g = geometry(case)
    assert did.blocks == 2 * 3  # two tiles side by side, three runs of channels
    # Beside them offset and mask, for each run of 32 channels, of which all touch two groups but
    # the last, which is half as long.
    samples = g.out_pixels * g.taps * (2 + 2 + 1)
    assert did.loaded == g.out_pixels * g.taps * g.channels * 2 + samples * 3 * 2


# ---- where else ----------------------------------------------------------------------------------


def test_deterministic_calls_gather() -> None:
    device = HostDevice()
    assert_right(device, cast(LARGE, "float32"), Options(deterministic=True))
    assert launches(device) == []
    assert "deform_gather" in {did.kernel for did in device.log if isinstance(did, Launched)}
