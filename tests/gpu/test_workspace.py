"""Workspace stays within its limit; a limit that is too low is refused with the lowest possible."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cases import Case
from checks import assert_agrees, needs_compiler
from hostcuda import HostDevice
from reference import reference
from support.gpu_cases import COLUMNS, DEPTHWISE, FUSED, least
from support.gpu_engine import backward, everything, forward, launches

from cudeform.checks import GRADIENTS
from cudeform.gpu import chunks
from cudeform.options import Options

pytestmark = needs_compiler


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("run", [forward, backward])
@pytest.mark.parametrize("case", [COLUMNS, DEPTHWISE], ids=["columns", "direct"])
def test_the_refusal_names_the_lowest_limit(
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


@pytest.mark.promise("bounded memory")
@pytest.mark.each_value
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0, 3.0])
@pytest.mark.parametrize("case", [COLUMNS, DEPTHWISE], ids=["columns", "direct"])
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
        gradient_bytes = nbytes(case, *GRADIENTS)  # gradients have the same sizes
        others = gradient_bytes + nbytes(case, "grad_output") if run is backward else 0
        outputs = case.grad_output.nbytes if run is forward else others
        used = device.peak_bytes - gradient_bytes - outputs
        assert 0 < used <= limit
        if share == 0.0 and layout == "contiguous":
            assert used > 0.9 * limit  # and the lowest limit is not much more than what is used


@pytest.mark.parametrize(
    ("run", "case", "layout", "needs"),
    [
        (forward, DEPTHWISE, "contiguous", "the weight and one image"),
        (forward, DEPTHWISE, "channels last", "the weight"),
        (forward, FUSED, "contiguous", "the weight and one image"),
        (forward, FUSED, "channels last", "the weight"),
        (backward, DEPTHWISE, "contiguous", "the weight, one image and one row of the output"),
        (backward, DEPTHWISE, "channels last", "the weight and one image"),
    ],
    ids=lambda value: value.name if isinstance(value, Case) else None,
)
def test_without_columns_the_lowest_limit_is_what_is_used(
    run: Callable[..., Any], case: Case, layout: str, needs: str
) -> None:
    case, device = case.cast("float32").laid_out(layout), HostDevice()
    enough = least(run, case, Options())
    run(device, case, Options(workspace_limit=enough))
    outputs = case.grad_output.nbytes if run is forward else nbytes(case, *GRADIENTS, "grad_output")
    assert device.peak_bytes - nbytes(case, *GRADIENTS) - outputs == enough
    with pytest.raises(ValueError, match=rf"{enough} bytes .* \({needs}\), got {enough - 1}"):
        run(HostDevice(), case, Options(workspace_limit=enough - 1))


@pytest.mark.parametrize(
    ("case", "kernel", "terms"),
    [(DEPTHWISE, "deform_direct", 1), (FUSED, "deform_fused", 2)],
    ids=["direct", "fused"],
)
def test_a_limit_that_just_fits_the_batch_does_not_cut_it(
    case: Case, kernel: str, terms: int
) -> None:
    """The packed weight of 3xTF32 has two terms."""
    case = case.cast("float32")
    weight, images = terms * case.weight.nbytes, case.input.nbytes
    for layout, limit, count in (
        ("contiguous", weight + images, 1),
        ("contiguous", weight + images - 1, 2),
        ("channels last", weight, 1),
    ):
        device = HostDevice()
        forward(device, case.laid_out(layout), Options(workspace_limit=limit))
        assert launches(device)[kernel] == count


def test_the_default_is_a_share_of_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "MIN_DEFAULT", 1)
    case = COLUMNS.cast("float32")
    calls = {memory: HostDevice(memory=memory) for memory in (160_000, 320_000, 10_000_000)}
    for device in calls.values():
        forward(device, case)
    counts = [launches(device)["deform_im2col"] for device in calls.values()]
    assert counts[0] > counts[1] > counts[2] == 1


@pytest.mark.parametrize("deterministic", [False, True])
def test_results_do_not_depend_on_the_chunks(
    monkeypatch: pytest.MonkeyPatch, deterministic: bool
) -> None:
    """Whole images, some rows, one row: each chunk adds to the sums of those before it."""
    case = COLUMNS.cast("float64")
    sums = reference(**case.backward_arguments)
    counts = set()
    for scratch_bytes in (1_000_000, 180_000, 90_000, 60_000, 1):
        monkeypatch.setattr(chunks, "DETERMINISTIC_BYTES", scratch_bytes)
        device, options = HostDevice(), Options(deterministic=deterministic)
        enough = least(backward, case, options)
        limit = 2**22 if deterministic else max(enough, scratch_bytes)
        results = everything(device, case, replace(options, workspace_limit=limit))
        for name, array in results.items():
            assert_agrees(array, sums[name], name)
        counts.add(launches(device)["deform_backward"])
    assert {1, 45} <= counts  # all at once, row by row
    assert 5 in counts  # image by image
    assert len(counts) >= 4
