"""Register a photograph: deform it, then recover the deformation by gradient descent.

The photograph comes with matplotlib. SciPy's cubic splines deform it by a smooth field; then
deform_conv2d and deform_conv2d_backward, without a framework, recover the field from the two
images. The picture shows the images, both fields and the errors.

Example:
    python -m cudeform demo --output demo.png
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import cudeform
from cudeform.commands import CommandError, demo_scene
from cudeform.commands import demo_registration as registration
from cudeform.commands.demo_registration import Floats, Result
from cudeform.commands.output_file import cannot_write, picture_file
from cudeform.options import available_threads, current

EXTRAS = ("matplotlib", "scipy", "tqdm")
ENDINGS = (".png", ".jpg", ".jpeg", ".pdf", ".svg")


@dataclass(frozen=True)
class Effort:
    """How much work to do.

    Attributes:
        halvings: how many times the photograph is first reduced to half its size.
        sizes: number of image sizes of the registration, each half of the next.
        steps: number of gradient steps at each size.
    """

    halvings: int
    sizes: int
    steps: int


FULL = Effort(halvings=0, sizes=4, steps=40)
QUICK = Effort(halvings=2, sizes=3, steps=30)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "--output",
        type=lambda text: picture_file(text, ENDINGS),
        default=Path("demo.png"),
        metavar="FILE",
        help=f"the picture to write, {', '.join(ENDINGS)} (default: %(default)s)",
    )
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "gpu"),
        default="auto",
        help="auto takes a GPU where CuPy finds one (default: %(default)s)",
    )
    parser.add_argument(
        "--steps",
        type=_count,
        metavar="N",
        help=f"steps at each of the image's sizes (default: {FULL.steps}, quick: {QUICK.steps})",
    )
    parser.add_argument("--quick", action="store_true", help="a small image and few steps")


def run(arguments: argparse.Namespace) -> int:
    """Register the photograph, draw the picture and print a summary.

    Raises:
        CommandError: a library, the GPU asked for or the photograph is missing, or the output file
            is not writable.
    """
    effort = QUICK if arguments.quick else FULL
    if arguments.steps is not None:
        effort = Effort(effort.halvings, effort.sizes, arguments.steps)
    check_extras()
    picture_file(str(arguments.output), ENDINGS)  # argparse does not check the default
    xp = array_module(arguments.device)
    result = register(demo_scene.photograph(effort.halvings), effort, xp)
    from cudeform.commands import demo_picture  # it imports matplotlib

    try:
        demo_picture.draw(result, arguments.output)
    except OSError as error:
        raise cannot_write(arguments.output, error) from None
    print(summary(result, engine_name(xp), arguments.output))
    return 0


def register(photo: Floats, effort: Effort, xp: ModuleType = np) -> Result:
    """Deform a photograph and recover the deformation, with a progress bar on stderr.

    The result is bit-identical on one machine for any number of threads: the true field comes from
    a fixed seed, and every sum has a fixed order.
    """
    from tqdm import tqdm

    with (
        cudeform.options(deterministic=True),  # only the GPU engine needs it
        threadpool_limits(1, user_api="blas"),  # BLAS's order of summation depends on its threads
        tqdm(total=effort.sizes * effort.steps, unit="step") as bar,
    ):
        true = demo_scene.smooth_field(*photo.shape[1:])
        fixed = demo_scene.deformed(photo, true)

        def advance(scale: int, error: Any) -> None:
            bar.update()
            if bar.n % 10 == 0:  # reading the error waits for the GPU, so not at every step
                size = f"1/{scale}" if scale > 1 else "full"
                bar.set_description(f"{size} size, error {float(error) ** 0.5:.4f}", refresh=False)

        start = time.perf_counter()
        found = registration.register(
            photo, fixed, sizes=effort.sizes, steps=effort.steps, xp=xp, advance=advance
        )
        seconds = time.perf_counter() - start
        warped = registration.warp(xp.asarray(photo), xp.asarray(found), xp)
    return Result(photo, fixed, registration.as_numpy(warped), true, found, seconds)


def array_module(device: str) -> Any:
    """The array module for a device: CuPy or NumPy. "auto" means CuPy if it finds a GPU.

    Args:
        device: "cpu", "gpu" or "auto".
    """
    if device == "cpu":
        return np
    try:
        import cupy
    except ImportError:
        pass
    else:
        if cupy.is_available():
            return cupy
    if device == "gpu":
        raise CommandError("--device gpu needs CuPy and a GPU; see python -m cudeform info")
    return np


def engine_name(xp: Any) -> str:
    """Name of the engine that computes on arrays of ``xp``."""
    if xp is not np:
        name = xp.cuda.runtime.getDeviceProperties(xp.cuda.Device().id)["name"].decode()
        return f"the GPU engine ({name})"
    threads = current().num_threads or available_threads()
    return f"the CPU engine ({threads} thread{'s' if threads > 1 else ''})"


def check_extras() -> None:
    """Raise CommandError if one of the demo's additional libraries is missing."""
    try:
        for name in EXTRAS:
            import_module(name)
    except ImportError as missing:
        raise CommandError(
            f"the demo needs {missing.name}, which is not installed: pip install 'cudeform[demo]'"
        ) from None


def summary(result: Result, engine: str, output: Path) -> str:
    """The result in one line."""
    before, after = result.error_before, result.error_after
    return (
        f"error {before:.4f} -> {after:.4f} ({before / after:.1f}x smaller), "
        f"field off by {result.field_error:.2f} px on average, "
        f"{result.seconds:.1f} s on {engine}; picture: {output}"
    )


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, got {text!r}")
    return int(text)
