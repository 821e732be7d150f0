"""The same bits, run after run, for any number of threads, and from many threads at once."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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


def results(case: Case, boundary_grad: str = "torchvision") -> dict[str, Any]:
    return computed(**case.backward_arguments, boundary_grad=boundary_grad)


def assert_same_bits(some: dict[str, Any], others: dict[str, Any]) -> None:
    assert some.keys() == others.keys()
    for name, array in some.items():
        assert array.tobytes() == others[name].tobytes(), name


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


def test_many_threads_at_once_with_options_of_their_own() -> None:
    calls = [
        (case, rule, threads)
        for rule, threads in (("torchvision", 1), ("mmcv", 2))
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


@pytest.fixture
def _restored() -> Iterator[None]:
    before = chosen()
    yield
    cudeform.set_options(num_threads=before.num_threads, deterministic=before.deterministic)


def chosen() -> cudeform.Options:
    """The options in force here."""
    with cudeform.options() as current:
        return current


def test_options_hold_inside_the_block_only() -> None:
    before = chosen()
    with cudeform.options(num_threads=3):
        with cudeform.options(boundary_grad="mmcv"):
            assert (chosen().num_threads, chosen().boundary_grad) == (3, "mmcv")
        assert (chosen().num_threads, chosen().boundary_grad) == (3, "torchvision")
    assert chosen() == before


def test_options_end_with_the_block_even_after_an_error() -> None:
    before = chosen()
    with pytest.raises(KeyError), cudeform.options(num_threads=3):
        raise KeyError
    assert chosen() == before


def test_options_belong_to_one_thread() -> None:
    before = chosen()
    with cudeform.options(num_threads=3):
        assert in_a_thread(chosen) == before


def test_options_belong_to_one_task() -> None:
    async def task(threads: int, turn: asyncio.Barrier) -> int | None:
        with cudeform.options(num_threads=threads):
            await turn.wait()  # both blocks are open
            seen = chosen().num_threads
            await turn.wait()
            return seen

    async def both() -> list[int | None]:
        turn = asyncio.Barrier(2)
        return await asyncio.gather(task(3, turn), task(4, turn))

    assert asyncio.run(both()) == [3, 4]


@pytest.mark.usefixtures("_restored")
def test_set_options_reaches_every_thread() -> None:
    started, changed = threading.Event(), threading.Event()

    def look() -> int | None:
        started.set()
        assert changed.wait(10)
        return chosen().num_threads

    with ThreadPoolExecutor(1) as pool:
        seen = pool.submit(look)
        assert started.wait(10)
        cudeform.set_options(num_threads=6)
        changed.set()
        assert seen.result() == 6
    assert chosen().num_threads == 6


@pytest.mark.usefixtures("_restored")
def test_a_block_wins_over_set_options() -> None:
    with cudeform.options(num_threads=3):
        cudeform.set_options(num_threads=6, deterministic=True)
        assert chosen().num_threads == 3
    assert (chosen().num_threads, chosen().deterministic) == (6, True)


def test_numpys_error_state_is_left_alone() -> None:
    before = np.geterr()
    results(build("nan", offset="nan and inf").cast("float32"))
    assert np.geterr() == before
