"""Straighten an image on disk that is larger than the memory of a worker.

The scanner of a slide wobbled, so every pixel of the scan is displaced by up to 24 pixels. The
displacements are known. A deformable convolution with one tap moves every pixel back; it reads one
zarr array and writes another. Each of two workers holds a few chunks at a time, for any size of the
image.

    python examples/dask_straighten.py [picture.png] [--size 20480 --tile 2048 --memory 2GB]
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import psutil
from distributed import Client, LocalCluster, progress

from cudeform.interop.dask import deform_conv2d

REACH = 24  # the largest displacement, in pixels


def truth(y: Any, x: Any) -> Any:
    """The true slide: round cells of 60 to 80 pixels, in larger regions."""
    cells = np.cos(y / 11) * np.cos(x / 13) + 0.5 * np.cos((y + x) / 17)
    return (cells + 0.5 * np.cos(y / 301) * np.cos(x / 407)).astype("float32")


def displacement(y: Any, x: Any) -> tuple[Any, Any]:
    """The displacement (dy, dx) from a point of the slide to the pixel that shows it."""
    return REACH * np.sin(y / 290 + x / 1900), REACH * np.cos(x / 330 - y / 1500)


def scanned(y: Any, x: Any) -> Any:
    """A block of the scan: each pixel shows the point that was displaced to it."""
    at_y, at_x = y, x
    for _ in range(12):  # solves at + displacement(at) == (y, x); it converges, as slopes are small
        dy, dx = displacement(at_y, at_x)
        at_y, at_x = y - dy, x - dx
    return truth(at_y, at_x)[None, None]


def field(y: Any, x: Any) -> Any:
    """A block of the offset, (1, 2, rows, columns)."""
    return np.stack(np.broadcast_arrays(*displacement(y, x)))[None].astype("float32")


def on_blocks(function: Any, channels: int, size: int, tile: int) -> Any:
    """A lazy array whose blocks ``function`` computes from the coordinates of their pixels."""
    at = da.arange(size, chunks=tile, dtype="float64")
    return da.map_blocks(
        function,
        at[:, None],
        at[None],
        new_axis=(0, 1),
        chunks=((1,), (channels,), *at.chunks, *at.chunks),
        meta=np.empty((0,) * 4, "float32"),
    )


@contextmanager
def peak_memory(cluster: LocalCluster) -> Iterator[list[float]]:
    """Measure the peak memory of each worker in MB; the list is complete when the block ends."""
    workers = [psutil.Process(worker.pid) for worker in cluster.workers.values()]
    peaks = [0.0] * len(workers)
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            for index, worker in enumerate(workers):
                peaks[index] = max(peaks[index], worker.memory_info().rss / 1e6)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peaks
    finally:
        done.set()
        thread.join()


def straighten(folder: str, size: int, tile: int, cluster: LocalCluster, client: Client) -> None:
    """Compute straight.zarr from scan.zarr."""
    scan = da.from_zarr(f"{folder}/scan.zarr")
    offset = on_blocks(field, 2, size, tile)
    one_tap = np.ones((1, 1, 1, 1), "float32")
    straight = deform_conv2d(scan, offset, one_tap, max_displacement=REACH)
    start = time.perf_counter()
    with peak_memory(cluster) as peaks:
        job = client.compute(straight.to_zarr(f"{folder}/straight.zarr", compute=False))
        progress(job, notebook=False)
        job.result()
    seconds = time.perf_counter() - start
    print(f"\n{size} x {size} pixels, {scan.nbytes / 1e9:.2f} GB, in tiles of {tile} x {tile}")
    print(f"{seconds:.1f} s, {size**2 / seconds / 1e6:.1f} million pixels a second")
    print(f"peak memory of a worker: {max(peaks):.0f} MB")


def errors(folder: str, size: int, tile: int) -> tuple[float, float]:
    """Largest difference from the true slide, before and after, except near the edge."""
    right = on_blocks(lambda y, x: truth(y, x)[None, None], 1, size, tile)
    inside = (..., slice(2 * REACH, -2 * REACH), slice(2 * REACH, -2 * REACH))
    names = ("scan", "straight")
    arrays = [da.from_zarr(f"{folder}/{name}.zarr") for name in names]
    before, after = dask.compute(*(abs(a - right)[inside].max() for a in arrays))
    return float(before), float(after)


def draw(folder: str, size: int, tile: int, path: str) -> None:
    """Draw the images before and after and the displacements: the whole, and a detail."""
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(2, 3, figsize=(12, 8), layout="constrained")
    offset = on_blocks(field, 2, size, tile)
    detail = slice(size // 3, size // 3 + 256)
    for row, part, step in zip(
        panels, (slice(None), detail), (max(1, size // 512), 1), strict=True
    ):
        pictures = [
            da.from_zarr(f"{folder}/{name}.zarr")[0, 0, part, part][::step, ::step].compute()
            for name in ("scan", "straight")
        ]
        dy, dx = offset[0, :, part, part][:, ::step, ::step].compute()
        for panel, picture in zip(row, pictures, strict=False):
            panel.imshow(picture, cmap="magma", vmin=-2, vmax=2)
        few = slice(None, None, max(1, len(dy) // 16))
        at = np.arange(len(dy))[few]
        row[2].imshow(np.hypot(dy, dx), cmap="viridis", vmin=0)
        row[2].quiver(at, at, dx[few, few], dy[few, few], color="white", angles="xy")
    titles = ("scan", "straight", "displacement", "a part of it", "", "")
    for panel, title in zip(panels.flat, titles, strict=True):
        panel.set_title(title)
        panel.set_axis_off()
    figure.savefig(path, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("picture", nargs="?", help="name of a picture to draw")
    parser.add_argument("--size", type=int, default=2048, help="rows and columns of the image")
    parser.add_argument("--tile", type=int, default=512, help="rows and columns of a chunk")
    parser.add_argument("--memory", default="2GB", help="memory limit of a worker")
    parser.add_argument("--folder", help="for the two zarr arrays; a temporary one if not given")
    given = parser.parse_args()
    size, tile = given.size, given.tile
    with (
        tempfile.TemporaryDirectory(dir=given.folder) as folder,
        LocalCluster(
            n_workers=2, threads_per_worker=1, memory_limit=given.memory, dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        on_blocks(scanned, 1, size, tile).to_zarr(f"{folder}/scan.zarr")
        client.restart()  # new workers, so that their peak memory is that of the convolution
        straighten(folder, size, tile, cluster, client)
        before, after = errors(folder, size, tile)
        print(f"largest error: {before:.3f} before, {after:.3f} after")
        assert after < 0.05 * before
        if given.picture:
            draw(folder, size, tile, given.picture)
            print(f"drawn: {Path(given.picture).name}")


if __name__ == "__main__":
    main()
