"""Results have the same bits in every run, for any number of threads, and in concurrent calls."""

import importlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from cases import Case, build
from checks import computed

import cudeform

SMALL = build("small", channels=6, groups=2, offset_groups=3, out_channels=4).cast("float32")
# One tile, whose products are large enough for BLAS to share among threads of its own.
MEDIUM = build("one tile", channels=64, size=(24, 24), out_channels=48, batch=1).cast("float32")
# Many tiles, and pixels that many of them touch.
LARGE = build(
    "many tiles",
    channels=24,
    size=(64, 72),
    out_channels=12,
    groups=2,
    offset_groups=3,
    offset="large",
    padding=((1, 1), (1, 1)),
).cast("float32")


# Products whose sums BLAS splits at other terms if it uses other numbers of threads: sums over
# taps and channels, over filters, over positions; few of them, and many.
SAME: Any = {"batch": 1, "padding": ((1, 1), (1, 1))}
PRODUCTS = [
    build("long rows, few of them", channels=80, out_channels=48, size=(8, 8), **SAME),
    build("many filters", channels=16, out_channels=700, size=(6, 6), **SAME),
    build("many positions", channels=48, out_channels=48, size=(27, 26), **SAME),
    build("groups", channels=160, groups=2, out_channels=96, size=(10, 10), **SAME),
    build("many rows", channels=80, out_channels=16, size=(48, 40), **SAME),
]
PRODUCTS = [case.cast("float32") for case in PRODUCTS]


def results(case: Case, boundary_grad: str = "one_sided") -> dict[str, Any]:
    return computed(**case.backward_arguments, boundary_grad=boundary_grad)


def assert_same_bits(some: dict[str, Any], others: dict[str, Any]) -> None:
    assert some.keys() == others.keys()
    for name, array in some.items():
        assert array.tobytes() == others[name].tobytes(), name


@pytest.mark.promise("reproducible")
@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_the_number_of_threads_does_not_change_a_bit(threads: int) -> None:
    with cudeform.options(num_threads=1):
        alone = results(LARGE)
    with cudeform.options(num_threads=threads):
        for _ in range(3):
            assert_same_bits(results(LARGE), alone)


@pytest.mark.parametrize("limit", [2**21, 2**23])
def test_nor_does_it_with_little_memory(limit: int) -> None:
    with cudeform.options(num_threads=1, workspace_limit=limit):
        alone = results(LARGE)
    with cudeform.options(num_threads=5, workspace_limit=limit):
        assert_same_bits(results(LARGE), alone)


@pytest.mark.parametrize("case", [SMALL, MEDIUM, LARGE], ids=lambda case: case.name)
def test_runs_do_not_differ(case: Case) -> None:
    first = results(case)
    for _ in range(5):
        assert_same_bits(results(case), first)


def test_one_gradient_is_the_same_whatever_else_is_needed() -> None:
    every = cudeform.deform_conv2d_backward(**LARGE.backward_arguments)
    for name in every._fields:
        grads = cudeform.deform_conv2d_backward(**LARGE.backward_arguments, needs=(name,))
        assert getattr(grads, name).tobytes() == getattr(every, name).tobytes()


def in_a_thread(function: Any, *arguments: Any) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *arguments).result()


@pytest.mark.parametrize("case", [SMALL, MEDIUM, LARGE], ids=lambda case: case.name)
def test_the_thread_that_calls_does_not_matter(case: Case) -> None:
    assert_same_bits(in_a_thread(results, case), results(case))


def every_operator(case: Case) -> dict[str, Any]:
    """What all four operators make of a case."""
    tangents = cudeform.Tangents(case.input, case.offset, case.weight, case.bias, case.mask)
    second = cudeform.deform_conv2d_double_backward(tangents, **case.backward_arguments)
    return {
        **results(case),
        "jvp": cudeform.deform_conv2d_jvp(tangents, **case.arguments),
        **{f"second {name}": array for name, array in second._asdict().items()},
    }


def differing(case: Case, threads: int, blas_threads: int) -> set[str]:
    """Results that are not the same where the caller lets BLAS use more than one thread."""
    threadpoolctl = pytest.importorskip("threadpoolctl")
    with cudeform.options(num_threads=threads):
        with threadpoolctl.threadpool_limits(1):
            alone = every_operator(case)
        with threadpoolctl.threadpool_limits(blas_threads):
            others = every_operator(case)
    return {name for name, array in alone.items() if array.tobytes() != others[name].tobytes()}


@pytest.mark.parametrize("blas_threads", [2, 3, 8])
@pytest.mark.parametrize("case", [SMALL, MEDIUM, *PRODUCTS], ids=lambda case: case.name)
def test_the_number_of_threads_of_blas_does_not_change_a_bit(case: Case, blas_threads: int) -> None:
    for threads in (1, 2):
        assert not differing(case, threads, blas_threads)


def test_it_would_if_blas_used_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    if not importlib.import_module("cudeform.cpu.threads")._blas_libraries():
        pytest.skip("needs OpenBLAS with threads of its own")
    for engine in ("forward", "backward", "second_order"):
        module = importlib.import_module(f"cudeform.cpu.{engine}")
        monkeypatch.setattr(module, "blas_on_one_thread", nullcontext)
    changed = set().union(*(differing(case, 1, 2) for case in PRODUCTS))
    forward, backward = {"output", "jvp"}, {"input", "offset", "mask"}
    assert forward <= changed
    assert backward <= changed


@pytest.mark.promise("reproducible")
def test_many_threads_at_once_with_options_of_their_own() -> None:
    calls = [
        (case, rule, threads)
        for rule, threads in (("one_sided", 1), ("zero", 2))
        for case in (LARGE, MEDIUM, SMALL, MEDIUM)
    ]

    def run(case: Case, boundary_grad: str, threads: int) -> dict[str, Any]:
        with cudeform.options(num_threads=threads):
            return results(case, boundary_grad)

    alone = [run(*call) for call in calls]
    with ThreadPoolExecutor(4) as pool:
        together = [pool.submit(run, *call) for _ in range(3) for call in calls]
    for index, future in enumerate(together):
        assert_same_bits(future.result(), alone[index % len(calls)])


def test_numpys_error_state_is_left_alone() -> None:
    before = np.geterr()
    results(build("nan", offset="nan and inf").cast("float32"))
    assert np.geterr() == before
