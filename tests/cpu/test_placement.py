"""The threads of a call run on disjoint cores, and the caller gets its cores back."""

import os
import threading

import pytest

from cudeform.cpu import placement
from cudeform.cpu.placement import cores_of_threads, on_cores
from cudeform.cpu.threads import run

needs_affinity = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="this system has no affinity of threads"
)


@pytest.fixture
def eight_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", lambda *_: None, raising=False)
    monkeypatch.setattr(placement, "_sched_getcpu", lambda: lambda: 5)


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_threads_have_disjoint_cores(eight_cores, threads):
    shares = cores_of_threads(threads)
    assert len(shares) == threads
    assert 5 in shares[0]
    assert sorted(core for share in shares for core in share) == list(range(8))


@pytest.mark.parametrize("threads", [1, 9])
def test_nothing_to_place(eight_cores, threads):
    assert cores_of_threads(threads) == [None] * threads


def test_unknown_core(eight_cores, monkeypatch):
    monkeypatch.setattr(placement, "_sched_getcpu", lambda: lambda: -1)
    assert cores_of_threads(2) == [None, None]


@needs_affinity
def test_run_keeps_threads_apart_and_gives_the_cores_back():
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core")
    before, seen, both = os.sched_getaffinity(0), {}, threading.Barrier(2)

    def work(item, _):
        both.wait(10)
        seen[threading.get_ident()] = os.sched_getaffinity(0)

    run(work, [0, 1], 2, lambda: None)
    first, second = seen.values()
    assert not first & second
    assert os.sched_getaffinity(0) == before


@needs_affinity
def test_an_error_gives_the_cores_back():
    before = os.sched_getaffinity(0)

    def work(item, _):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(work, [0, 1], 2, lambda: None)
    assert os.sched_getaffinity(0) == before


@needs_affinity
def test_forbidden_placement_is_ignored(monkeypatch):
    def forbidden(*_):
        raise PermissionError

    monkeypatch.setattr(os, "sched_setaffinity", forbidden)
    with on_cores({0}):
        pass
