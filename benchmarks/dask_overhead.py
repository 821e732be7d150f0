"""What tiles cost: two workers of one thread beside the plain call with two threads.

    python benchmarks/dask_overhead.py [--gradients] [--size 2048 --tile 1024 --channels 8]

The arguments are in the workers' memory, those of a tile on one worker, and the output stays there.
Rounds of both are interleaved in one run. The ratio of their medians is printed, and that of their
processor time, which other load on the machine changes less.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

import dask
import dask.array as da
import numpy as np
from distributed import Client, LocalCluster, wait

import cudeform
from cudeform.interop.dask import deform_conv2d, deform_conv2d_backward


class Times(NamedTuple):
    """Seconds on the clock, and seconds of the processors."""

    wall: float
    cpu: float


REACH = 8


def elapsed(call: Callable[[], object], processor_time: Callable[[], float]) -> Times:
    start, start_cpu = time.perf_counter(), processor_time()
    call()
    return Times(time.perf_counter() - start, processor_time() - start_cpu)


def parts(array: Any, channels: int) -> tuple[Any, Any, Any]:
    """The image, the offset and the mask, which lie one behind the other."""
    offset = array[:, channels : channels + 18].clip(-REACH / 2, REACH / 2) * 2
    return array[:, :channels], offset, array[:, channels + 18 :]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=2048, help="rows and columns of the image")
    parser.add_argument("--tile", type=int, default=1024, help="rows and columns of a chunk")
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gradients", action="store_true")
    given = parser.parse_args()
    channels, shape = given.channels, (1, given.channels + 27, given.size, given.size)
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((channels, channels, 3, 3), dtype="float32")
    image, offset, mask = parts(rng.standard_normal(shape, dtype="float32"), channels)

    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, memory_limit="6GB", dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        chunks = (1, -1, given.tile, given.tile)
        together = da.random.default_rng(0).standard_normal(shape, dtype="float32", chunks=chunks)
        lazy_image, lazy_offset, lazy_mask = dask.persist(*parts(together.persist(), channels))
        wait([lazy_image, lazy_offset, lazy_mask])
        lazy = lazy_image, lazy_offset, weight, None, 1, 1, 1, lazy_mask
        call = image, offset, weight, None, 1, 1, 1, mask

        def tiled() -> None:
            if given.gradients:
                grads = deform_conv2d_backward(lazy_image, *lazy, max_displacement=REACH)
                wait(dask.persist(*[grad for grad in grads if grad is not None]))
            else:
                wait(deform_conv2d(*lazy, max_displacement=REACH).persist())

        def plain() -> None:
            with cudeform.options(num_threads=2):
                if given.gradients:
                    cudeform.deform_conv2d_backward(image, *call)
                else:
                    cudeform.deform_conv2d(*call)

        def of_workers() -> float:
            return sum(client.run(time.process_time).values())

        tiled(), plain()
        wholes, cuts = [], []
        for _ in range(given.rounds):
            wholes.append(elapsed(plain, time.process_time))
            cuts.append(elapsed(tiled, of_workers))
    what = "all gradients" if given.gradients else "forward"
    size, tile = given.size, given.tile
    print(f"{what}, {channels} x {size} x {size}, tiles of {tile} x {tile}, reach {REACH}:")
    for kind, name in enumerate(("seconds", "processor seconds")):
        whole, cut = (median(times[kind] for times in each) for each in (wholes, cuts))
        print(f"{name}: plain {whole:.2f}, 2 workers {cut:.2f}, ratio {cut / whole:.2f}")


if __name__ == "__main__":
    main()
