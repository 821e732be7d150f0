"""Threads: one pool per process, a new one in a forked child; errors and interrupts end a call."""

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cudeform.cpu import threads
from cudeform.cpu.threads import OrderedAccumulator, blas_on_one_thread, run

FORKS = """
import os, threading, time
import numpy as np
from threadpoolctl import threadpool_info
import cudeform

rng = np.random.default_rng(0)
image = rng.standard_normal((2, 32, 40, 40), "f4")
weight = rng.standard_normal((32, 32, 3, 3), "f4")
offset = rng.standard_normal((2, 18, 40, 40), "f4")

def call():
    with cudeform.options(num_threads=2):
        output = cudeform.deform_conv2d(image, offset, weight, padding=1)
        grads = cudeform.deform_conv2d_backward(output, image, offset, weight, padding=1)
    return [output.tobytes(), *(g.tobytes() for g in grads if g is not None)]

def blas():
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

expected, before = call(), blas()
stop = threading.Event()

def busy():
    while not stop.is_set():
        call()

thread = threading.Thread(target=busy)
thread.start()
time.sleep(0.1)
for _ in range(5):
    child = os.fork()
    if child == 0:
        os._exit(0 if call() == expected and blas() == before else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
stop.set()
thread.join()
assert blas() == before
"""
OUTLIVES = """
import atexit, threading
import numpy as np
import cudeform

image, offset = np.ones((2, 32, 64, 64), "f4"), np.zeros((2, 18, 64, 64), "f4")
arrays = image, offset, np.ones((32, 32, 3, 3), "f4")

def convolve(where):
    with cudeform.options(num_threads=2):
        cudeform.deform_conv2d(*arrays, padding=1)
    print(where, flush=True)

def worker():
    main.join()
    convolve("worker")

main = threading.main_thread()
convolve("main")
threading.Thread(target=worker).start()
atexit.register(convolve, "atexit")
"""

# The first call imports Numba, which would import SciPy's linear algebra with another pool of
# threads. A function of the caller that needs it must still find it.
LEAVES_SCIPY = """
import importlib.util, sys
import numba
import numpy as np
import cudeform

cudeform.deform_conv2d(np.ones((1, 1, 4, 4)), np.zeros((1, 18, 2, 2)), np.ones((1, 1, 3, 3)))
assert "scipy.linalg" not in sys.modules

@numba.njit
def product(a, b):
    return a @ b

if importlib.util.find_spec("scipy") is not None:
    a, b = np.random.default_rng(0).random((2, 3, 3))
    assert np.allclose(product(a, b), a @ b)
    assert "scipy.linalg" in sys.modules
"""


def script(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_a_new_pool_and_the_blas_threads_of_before() -> None:
    script(FORKS)


def test_a_first_call_does_not_import_the_linear_algebra_of_scipy() -> None:
    script(LEAVES_SCIPY)


def test_calls_work_while_python_shuts_down() -> None:
    assert script(OUTLIVES).split() == ["main", "worker", "atexit"]


def test_every_item_is_processed_once_by_at_most_the_given_number_of_threads() -> None:
    for count in (1, 2, 5):
        done: list[int] = []
        names: set[str] = set()

        def work(item: int, _: None, done: list[int] = done, names: set[str] = names) -> None:
            done.append(item)
            names.add(threading.current_thread().name)
            time.sleep(0.001)

        run(work, range(40), count, lambda: None)
        assert sorted(done) == list(range(40))
        assert len(names) <= count


def test_the_first_error_stops_all_threads_and_is_raised() -> None:
    done: list[int] = []

    def work(item: int, _: None) -> None:
        if item == 3:
            raise ZeroDivisionError("item 3")
        time.sleep(0.01)
        done.append(item)

    with pytest.raises(ZeroDivisionError, match="item 3"):
        run(work, range(1000), 3, lambda: None)
    assert len(done) < 100


def test_an_error_in_a_box_releases_the_threads_that_wait_for_it() -> None:
    accumulator = OrderedAccumulator(1)

    def work(box: int, _: None) -> None:
        with accumulator.stopped_by_errors():
            if box == 0:
                time.sleep(0.05)  # until the next box waits
                raise ZeroDivisionError
            accumulator.add_in_order(0, box, lambda: None)

    with pytest.raises(ZeroDivisionError):
        run(work, range(8), 2, lambda: None)


def test_boxes_add_in_their_order() -> None:
    accumulator, order = OrderedAccumulator(2), [[], []]  # type: ignore[var-annotated]

    def work(box: int, _: None) -> None:
        time.sleep(0.001 * (box % 3))
        for part in (0, 1):
            accumulator.add_in_order(part, box, lambda part=part, box=box: order[part].append(box))

    run(work, range(30), 4, lambda: None)
    assert order == [list(range(30))] * 2


def test_a_call_does_not_wait_for_threads_that_other_calls_block() -> None:
    release = threading.Event()

    def wait(item: int, _: None) -> None:
        release.wait(60)

    with ThreadPoolExecutor(1) as caller:
        blocked = caller.submit(run, wait, range(8), 2, lambda: None)
        while threads._pool.executor is None:
            time.sleep(0.001)
        done: list[int] = []
        run(lambda item, _: done.append(item), range(8), 2, lambda: None)
        assert sorted(done) == list(range(8))
        release.set()
        blocked.result()


def test_blas_has_one_thread_while_any_caller_is_inside() -> None:
    libraries = threads._blas_libraries()
    if not libraries:
        pytest.skip("needs OpenBLAS with threads of its own")
    before = [library.get_num_threads() for library in libraries]
    with blas_on_one_thread():
        with blas_on_one_thread():
            pass
        assert {library.get_num_threads() for library in libraries} == {1}
    assert [library.get_num_threads() for library in libraries] == before


def test_errors_of_numpy_are_ignored_in_every_thread() -> None:
    def divide(item: int, _: None) -> None:
        assert np.isnan(np.zeros(1) / np.zeros(1)).all()

    run(divide, range(20), 3, lambda: None)
