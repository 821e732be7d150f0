"""How long the host takes for a call on a GPU, without one: CuPy is replaced by what does nothing.

python benchmarks/host_time.py [--calls 300] [--json FILE]

What is left is cudeform's own Python: checks, geometry, plans, arguments of launches. What CuPy and
the driver take for an allocation, a launch and a product comes on top, and needs a GPU to be known.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace, TracebackType
from typing import Any

import numpy as np
from cudeform_bench.configs import Config, named

import cudeform

SHAPES = ("A1", "A4", "B1", "C2", "C4")
ALIGNMENT = 512


class Device:
    """Stands for a GPU, and for being on it."""

    id = 0
    compute_capability = "90"

    def __init__(self, index: int = 0) -> None: ...

    def __enter__(self) -> Device:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class ndarray:  # the door knows CuPy's arrays by this name
    """Sizes and an address, no memory."""

    device = Device()

    def __init__(self, shape: Sequence[int], dtype: Any, address: int = ALIGNMENT) -> None:
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        self.itemsize = self.dtype.itemsize
        steps = [self.itemsize]
        for size in reversed(self.shape[1:]):
            steps.append(steps[-1] * size)
        self.strides = tuple(reversed(steps))
        self.data = SimpleNamespace(ptr=address)


ndarray.__module__ = "cupy"


def install() -> None:
    """Make ``import cupy`` give what does nothing."""
    cupy: Any = ModuleType("cupy")
    cupy.__spec__ = ModuleSpec("cupy", None)
    cupy.__version__ = "none"
    cupy.ndarray, cupy.empty = ndarray, ndarray
    cupy.is_available = lambda: True
    memory, stream = SimpleNamespace(ptr=ALIGNMENT), SimpleNamespace(ptr=0)
    cupy.cuda = SimpleNamespace(
        Device=Device,
        alloc=lambda nbytes: memory,
        get_current_stream=lambda *_: stream,
        device=SimpleNamespace(get_cublas_handle=lambda: 1),
        cublas=SimpleNamespace(
            gemmStridedBatchedEx=lambda *_: None,
            getMathMode=lambda *_: 0,
            setMathMode=lambda *_: None,
            getVersion=lambda *_: 0,
        ),
        driver=SimpleNamespace(launchKernel=lambda *_: None),
        runtime=SimpleNamespace(
            getDeviceCount=lambda: 1,
            deviceGetAttribute=lambda *_: 132,
            memGetInfo=lambda: (2**36, 2**37),
            memsetAsync=lambda *_: None,
        ),
    )

    class RawKernel:
        """A kernel that is not there."""

        max_dynamic_shared_size_bytes = 2**20
        kernel = SimpleNamespace(ptr=0)

        def __init__(self, *_: Any, **how: Any) -> None: ...

    cupy.RawKernel = RawKernel
    sys.modules["cupy"] = cupy


def calls_of(config: Config) -> dict[str, Callable[[], Any]]:
    """What is timed of a configuration, by name."""
    out, taps = (config.out_height, config.out_width), config.taps * config.offset_groups
    kernel = (config.kernel, config.kernel)
    arrays = {
        "input": ndarray((config.batch, config.channels, config.height, config.width), "float32"),
        "offset": ndarray((config.batch, 2 * taps, *out), "float32"),
        "weight": ndarray(
            (config.out_channels, config.channels // config.groups, *kernel), "float32"
        ),
        "bias": ndarray((config.out_channels,), "float32"),
        "mask": ndarray((config.batch, taps, *out), "float32"),
    }
    grad = ndarray((config.batch, config.out_channels, *out), "float32")
    sizes: dict[str, Any] = {"stride": config.stride, "padding": config.padding}

    def ordered() -> None:
        with cudeform.options(deterministic=True):
            cudeform.deform_conv2d_backward(grad, **arrays, **sizes)

    return {
        "forward": lambda: cudeform.deform_conv2d(**arrays, **sizes),
        "backward": lambda: cudeform.deform_conv2d_backward(grad, **arrays, **sizes),
        "deterministic backward": ordered,
    }


def microseconds(call: Callable[[], Any], calls: int, rounds: int = 7) -> float:
    """Processor time of one call, whatever else the machine does: the median of some rounds."""
    call()
    taken = []
    for _ in range(rounds):
        started = time.process_time()
        for _ in range(calls):
            call()
        taken.append(1e6 * (time.process_time() - started) / calls)
    return statistics.median(taken)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What a call costs the host, without a GPU.")
    parser.add_argument("--calls", type=int, default=300, help="in a round")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    install()
    found: dict[str, dict[str, float]] = {}
    for name in SHAPES:
        [config] = named(name)
        found[name] = {
            kind: microseconds(call, options.calls) for kind, call in calls_of(config).items()
        }
        taken = ", ".join(f"{kind} {us:.1f}" for kind, us in found[name].items())
        print(f"{name:4} {config.shape:28} us: {taken}")
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
