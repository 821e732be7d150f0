"""`python -m cudeform check` compares with the CPU engine, uses every kernel, reports faults."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checks import needs_compiler

from cudeform import kernels
from cudeform.__main__ import main
from cudeform.commands import check, check_problems
from cudeform.commands.check import Operation
from cudeform.commands.check_problems import Problem
from cudeform.family import OPERATORS

# Kernels that only half precision needs: other results have accumulation precision.
ONLY_HALF = {"round_grad_input"}


@pytest.fixture
def numpy_for_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy arrays on both sides: a comparison without a GPU."""

    class Arrays:
        asarray = staticmethod(np.array)
        asnumpy = staticmethod(np.asarray)

    monkeypatch.setattr(check, "usable_cupy", lambda: Arrays)
    monkeypatch.setattr(check.gpus, "gpu", lambda: "a GPU")
    monkeypatch.setattr(check.gpus, "gpu_facts", lambda: ["a driver"])


def image(problem: Problem) -> list[Any]:
    return [problem.arrays["input"]]


def operation(call: Callable[[Problem], list[Any]]) -> Operation:
    return Operation("deform_conv2d", call)


@pytest.mark.usefixtures("numpy_for_cupy")
def test_equal_results_agree(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(check, "OPERATIONS", {"the image": operation(image)})
    assert main(["check"]) == 0
    said = capsys.readouterr().out
    assert "a GPU; a driver" in said
    assert "All results agree." in said
    assert said.endswith("To do\n  - nothing\n")


@pytest.mark.parametrize("wrong", [1.5, np.nan])
@pytest.mark.usefixtures("numpy_for_cupy")
def test_a_wrong_result_is_named(
    wrong: float, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    calls = iter(range(1000))

    def every_second_is_wrong(problem: Problem) -> list[Any]:
        return [problem.arrays["input"] * (wrong if next(calls) % 2 else 1)]

    operations = {"right": operation(image), "not right": operation(every_second_is_wrong)}
    monkeypatch.setattr(check, "OPERATIONS", operations)
    assert main(["check"]) == 1
    said = capsys.readouterr().out
    assert said.count("WRONG") == 3
    for dtype in ("float16", "float32", "float64"):
        assert f"not right, {dtype}: wrong by" in said
    assert "please report all of this" in said


@pytest.mark.usefixtures("numpy_for_cupy")
def test_a_failure_does_not_hide_the_rest(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def fails(problem: Problem) -> list[Any]:
        if problem.arrays["input"].dtype == np.float16:
            raise RuntimeError("an illegal address")
        return image(problem)

    operations = {"fails": operation(fails), "the image": operation(image)}
    monkeypatch.setattr(check, "OPERATIONS", operations)
    assert main(["check"]) == 1
    said = capsys.readouterr().out
    rows = [line.split() for line in said.splitlines() if line.startswith(("fails ", "the image "))]
    assert [row[-3:] for row in rows] == [["failed", "0.0e+00", "0.0e+00"], ["0.0e+00"] * 3]
    assert "fails, float16: failed with RuntimeError: an illegal address" in said


@pytest.mark.promise("honest")
def test_without_a_gpu_it_says_what_was_found_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert main(["check"]) == 2
    said = capsys.readouterr().out
    parts = [said.index(part) for part in ("Found\n", "Works\n", "To do\n  - CuPy cannot be")]
    assert parts == sorted(parts)
    assert "Nothing was checked: there is no GPU" in said
    assert "pip install 'cudeform[cuda13]'" in said


def test_every_operator_is_compared_in_every_order() -> None:
    for name in OPERATORS:
        rows = [each for each in check.OPERATIONS.values() if each.operator == name]
        calls = {each.call for each in rows}
        first = {check_problems.first_order, check_problems.forward, check_problems.backward}
        assert name in check_problems.CALLS
        assert calls & first, name
        assert check_problems.second_order in calls, name
        assert any(each.deterministic for each in rows), name


# Rows that use every kernel, in a few seconds.
QUICK = ("deform_conv2d", "ms_deform_attn", "deform_conv_transpose2d, second order")


@pytest.mark.promise("honest")
@needs_compiler
@pytest.mark.parametrize(
    ("dtypes", "rows"),
    [
        pytest.param(["float32"], QUICK, id="quick"),
        # In half precision all kernels are used.
        pytest.param(["float16"], "", id="all", marks=pytest.mark.slow),
    ],
)
def test_results_agree_and_every_kernel_is_used(
    dtypes: list[str], rows: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """On the host's device, which runs the kernels' text on the CPU."""
    from hostcuda import HostDevice, Launched
    from support.cupy_cuda import HostCuda, installed

    chosen = {name: each for name, each in check.OPERATIONS.items() if name.startswith(rows)}
    monkeypatch.setattr(check, "OPERATIONS", chosen)
    monkeypatch.setattr(check, "ALLOWED", {dtype: check.ALLOWED[dtype] for dtype in dtypes})
    gpu = HostDevice(compute_capability=90)
    with installed(HostCuda(gpu), monkeypatch):
        assert main(["check"]) == 0
    assert "All results agree." in capsys.readouterr().out
    used = {done.kernel for done in gpu.log if isinstance(done, Launched)}
    every = {file.stem for file in Path(kernels.__path__[0]).rglob("*.cu")}
    assert used == (every if "float16" in dtypes else every - ONLY_HALF)
