"""What tiles cost: two workers of one thread beside the plain call with two threads.

    python benchmarks/dask_overhead.py [--tile 1024]

The arguments are in the workers' memory, those of a tile on one worker, and the output stays there.
Rounds of both are interleaved in one run. The ratio of their medians is printed, and that of their
processor time, which other load on the machine changes less.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

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


CHANNELS, SIZE, REACH = 8, (2048, 2048), 8


def elapsed(call: Callable[[], object], processor_time: Callable[[], float]) -> Times:
    start, start_cpu = time.perf_counter(), processor_time()
    call()
    return Times(time.perf_counter() - start, processor_time() - start_cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tile", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gradients", action="store_true")
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    image = rng.standard_normal((1, CHANNELS, *SIZE), dtype="float32")
    offset = rng.standard_normal((1, 18, *SIZE), dtype="float32").clip(-REACH / 2, REACH / 2) * 2
    mask = rng.random((1, 9, *SIZE), dtype="float32")
    weight = rng.standard_normal((CHANNELS, CHANNELS, 3, 3), dtype="float32")
    call = image, offset, weight, None, 1, 1, 1, mask

    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, memory_limit="6GB", dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        chunks = (1, -1, given.tile, given.tile)
        together = da.from_array(np.concatenate([image, offset, mask], 1), chunks=chunks).persist()
        parts = np.split(np.arange(CHANNELS + 27), [CHANNELS, CHANNELS + 18])
        lazy_image, lazy_offset, lazy_mask = dask.persist(
            *(together[:, part[0] : part[-1] + 1] for part in parts)
        )
        wait([lazy_image, lazy_offset, lazy_mask])
        lazy = lazy_image, lazy_offset, weight, None, 1, 1, 1, lazy_mask

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
    print(f"{what}, 1 x {CHANNELS} x {SIZE[0]} x {SIZE[1]}, tiles of {given.tile}, reach {REACH}:")
    for kind, name in enumerate(("seconds", "processor seconds")):
        whole, cut = (median(times[kind] for times in each) for each in (wholes, cuts))
        print(f"{name}: plain {whole:.2f}, 2 workers {cut:.2f}, ratio {cut / whole:.2f}")


if __name__ == "__main__":
    main()
