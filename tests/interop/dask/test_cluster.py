"""Worker processes: the same bits for any number of them, also when one dies in the middle."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from cases import build
from distributed import Client, LocalCluster, wait

import cudeform
from cudeform.interop.dask import deform_conv2d, deform_conv2d_backward

pytestmark = [
    pytest.mark.slow,
    # A process that is killed leaves sockets and files behind.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

CASE = build(
    "Dask, cluster", size=(48, 40), channels=4, offset="large", padding=((1, 1), (1, 1))
).cast("float32")
REACH = 40


def chunked() -> Any:
    """The case in few chunks: processes make a task dear."""
    arrays = CASE.input, CASE.offset, CASE.mask, CASE.grad_output
    names = "input", "offset", "mask", "grad_output"
    sizes = (1, -1, 20, 20), (1, -1, 16, 16), (2, -1, 24, 24), (2, -1, 48, 20)
    zipped = zip(names, arrays, sizes, strict=True)
    return replace(CASE, **{n: da.from_array(a, chunks=chunks) for n, a, chunks in zipped})


@contextmanager
def cluster(workers: int) -> Iterator[Client]:
    with (
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as processes,
        Client(processes) as client,
    ):
        yield client


def results() -> list[Any]:
    """The output and all gradients, computed by the cluster that there is."""
    there = chunked()
    output = deform_conv2d(**there.arguments, max_displacement=REACH)
    grads = deform_conv2d_backward(**there.backward_arguments, max_displacement=REACH)
    return list(dask.compute(output, *grads))


def test_the_same_bits_for_any_number_of_workers() -> None:
    found = []
    for workers in (1, 2):
        with cluster(workers):
            found.append(results())
    for one, two in zip(*found, strict=True):
        np.testing.assert_array_equal(one, two)


def test_errors_and_options_of_tasks_in_another_process() -> None:
    there = chunked()
    with cluster(1):
        small = deform_conv2d(**there.arguments, max_displacement=1)
        with pytest.raises(ValueError, match="offset must stay within max_displacement: d"):
            small.compute()
        for rule in ("zero", "one_sided"):
            with cudeform.options(boundary_grad=rule, max_displacement=REACH):
                lazy = cudeform.deform_conv2d_backward(**there.backward_arguments).offset
                wanted = cudeform.deform_conv2d_backward(**CASE.backward_arguments).offset
            np.testing.assert_allclose(lazy.compute(), wanted, rtol=0, atol=1e-4)


def test_a_worker_that_dies_in_the_middle_changes_nothing(tmp_path: Path) -> None:
    # A local function travels by value: the workers cannot import this module.
    def slowly(block: Any, log: str, block_id: Any = None) -> Any:
        """The block, after a while; a file says that it was read, and by which process."""
        name = "-".join(map(str, block_id))
        with Path(log, f"{name} {os.getpid()} {time.monotonic_ns()}").open("w"):
            pass
        time.sleep(0.2)
        return block

    there = chunked()
    slow = there.offset.map_blocks(slowly, str(tmp_path), meta=np.empty((0,) * 4, "float32"))
    call = there.arguments | {"offset": slow}
    with cluster(2) as client:
        wanted = results()
        output = deform_conv2d(**call, max_displacement=REACH)
        grads = deform_conv2d_backward(there.grad_output, **call, max_displacement=REACH)
        futures = client.compute([output, *grads])
        blocks = int(np.prod(there.offset.numblocks))
        # A worker dies that has read a block, while other blocks are still unread.
        deadline = time.monotonic() + 60
        while not (begun := list(tmp_path.iterdir())):
            assert time.monotonic() < deadline, [future.status for future in futures]
            time.sleep(0.01)
        assert len(begun) < blocks
        victim = int(begun[0].name.split(" ")[1])
        os.kill(victim, signal.SIGKILL)
        wait(futures, timeout=120)
        got = client.gather(futures)
    for array, expected in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(array, expected)
    read = [path.name.split(" ")[0] for path in tmp_path.iterdir()]
    assert len(read) > len(set(read)), "a block of the worker that died was read again"


def test_a_warp_from_store_to_store(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    rng = np.random.default_rng(0)
    image = rng.integers(-8, 8, (1, 2, 70, 50)).astype("float32")
    offset = (rng.integers(-12, 13, (1, 2, 70, 50)) / 4).astype("float32")
    weight = np.ones((2, 2, 1, 1), "float32")
    for name, array in (("image", image), ("offset", offset)):
        da.from_array(array, chunks=(1, 2, 32, 32)).to_zarr(str(tmp_path / f"{name}.zarr"))
    with cluster(2):
        lazy = deform_conv2d(
            da.from_zarr(str(tmp_path / "image.zarr")),
            da.from_zarr(str(tmp_path / "offset.zarr")),
            weight,
            max_displacement=3,
        )
        lazy.to_zarr(str(tmp_path / "warped.zarr"))
    stored = zarr.open_array(str(tmp_path / "warped.zarr"), mode="r")[...]
    np.testing.assert_array_equal(stored, cudeform.deform_conv2d(image, offset, weight))
