"""The scope of options: a ``with`` block, in one thread or task, or the whole process."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import cudeform


@pytest.fixture
def _restored() -> Iterator[None]:
    before = chosen()
    yield
    cudeform.set_options(num_threads=before.num_threads, deterministic=before.deterministic)


def chosen() -> cudeform.Options:
    """The options in force at the call."""
    with cudeform.options() as current:
        return current


def test_options_apply_only_inside_the_block() -> None:
    before = chosen()
    with cudeform.options(num_threads=3):
        with cudeform.options(boundary_grad="zero"):
            assert (chosen().num_threads, chosen().boundary_grad) == (3, "zero")
        assert (chosen().num_threads, chosen().boundary_grad) == (3, "one_sided")
    assert chosen() == before


def test_options_end_with_the_block_even_after_an_error() -> None:
    before = chosen()
    with pytest.raises(KeyError), cudeform.options(num_threads=3):
        raise KeyError
    assert chosen() == before


def test_options_belong_to_one_thread() -> None:
    before = chosen()
    with cudeform.options(num_threads=3), ThreadPoolExecutor(1) as pool:
        assert pool.submit(chosen).result() == before


def test_options_belong_to_one_task() -> None:
    async def task(threads: int, both_open: asyncio.Barrier) -> int | None:
        with cudeform.options(num_threads=threads):
            await both_open.wait()
            seen = chosen().num_threads
            await both_open.wait()
            return seen

    async def both() -> list[int | None]:
        both_open = asyncio.Barrier(2)
        return await asyncio.gather(task(3, both_open), task(4, both_open))

    assert asyncio.run(both()) == [3, 4]


@pytest.mark.usefixtures("_restored")
def test_set_options_reaches_every_thread() -> None:
    started, changed = threading.Event(), threading.Event()

    def read_in_thread() -> int | None:
        started.set()
        assert changed.wait(10)
        return chosen().num_threads

    with ThreadPoolExecutor(1) as pool:
        seen = pool.submit(read_in_thread)
        assert started.wait(10)
        cudeform.set_options(num_threads=6)
        changed.set()
        assert seen.result() == 6
    assert chosen().num_threads == 6


@pytest.mark.usefixtures("_restored")
def test_a_block_takes_precedence_over_set_options() -> None:
    with cudeform.options(num_threads=3):
        cudeform.set_options(num_threads=6, deterministic=True)
        assert chosen().num_threads == 3
    assert (chosen().num_threads, chosen().deterministic) == (6, True)
