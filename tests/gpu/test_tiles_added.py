"""Owned tiles are as sparing as the model says: what they add, and what they read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cases import SAME, Case, build
from checks import needs_compiler
from hostcuda import HostDevice, Launched
from support.gpu_cases import cast
from support.gpu_engine import geometry
from support.gpu_tiles import ACROSS, assert_right, grad_input, launches

from cudeform.gpu import scatter
from cudeform.gpu.owned_tiles import MOST_REACH, SIDE
from cudeform.options import Options

pytestmark = [needs_compiler, pytest.mark.usefixtures("owned_tiles")]


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
