"""Register a photograph: deform it, and find the deformation again by gradient descent.

The photograph comes with matplotlib. SciPy's cubic splines deform it by a smooth field; then
deform_conv2d and deform_conv2d_backward, and no framework, recover the field from the two images.
Both are drawn side by side into a PNG.

Example:
    python -m cudeform demo --output demo.png
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

import cudeform
from cudeform.commands import demo_registration as registration
from cudeform.options import available_threads, current

Floats = NDArray[np.float32]

EXTRAS = ("matplotlib", "scipy", "tqdm")
PHOTO = "grace_hopper.jpg"
SEED = 2
AMPLITUDE = 0.04  # largest displacement, as a share of the image's height
WAVES = 3  # half waves of the field along each axis, at most


class Unavailable(Exception):
    """The demo cannot run here; the text says why and what to do."""


@dataclass(frozen=True)
class Effort:
    """How much work to do.

    Attributes:
        halvings: how often the photograph is halved beforehand.
        sizes: how many sizes of it are registered, each half of the next.
        steps: steps of gradient descent at each size.
    """

    halvings: int
    sizes: int
    steps: int


FULL = Effort(halvings=0, sizes=4, steps=40)
QUICK = Effort(halvings=2, sizes=3, steps=30)


@dataclass(frozen=True)
class Result:
    """What the demo was given and what it found; images (C, H, W), fields (2, H, W).

    Attributes:
        moving: the photograph.
        fixed: the photograph deformed: its pixel ``p`` shows ``moving`` at ``p + true(p)``.
        registered: the photograph warped by the field that was found.
        true: displacements in pixels, dy then dx.
        found: the same, recovered from the two images.
        seconds: time it took to find them.
    """

    moving: Floats
    fixed: Floats
    registered: Floats
    true: Floats
    found: Floats
    seconds: float

    @property
    def error_before(self) -> float:
        """Root mean square difference of the two images, all pixels and colours, borders too."""
        return rms(self.moving - self.fixed)

    @property
    def error_after(self) -> float:
        """The same, once registered."""
        return rms(self.registered - self.fixed)

    @property
    def field_error(self) -> float:
        """Mean distance in pixels between where the two fields point, all pixels."""
        return float(np.hypot(*(self.found - self.true)).mean())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be chosen."""
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("demo.png"),
        metavar="FILE",
        help="the PNG to write (default: %(default)s)",
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
    """Register the photograph, draw the picture, print the line; the status is 2 if it cannot."""
    effort = QUICK if arguments.quick else FULL
    if arguments.steps is not None:
        effort = Effort(effort.halvings, effort.sizes, arguments.steps)
    try:
        check_extras()
        xp = array_module(arguments.device)
        check_folder(arguments.output)
        result = register(photograph(effort.halvings), effort, xp)
    except Unavailable as reason:
        print(reason, file=sys.stderr)
        return 2
    from cudeform.commands import demo_picture  # here, as it imports matplotlib

    demo_picture.draw(result, arguments.output)
    print(summary(result, engine_name(xp), arguments.output))
    return 0


def register(photo: Floats, effort: Effort, xp: ModuleType = np) -> Result:
    """Deform a photograph and find the deformation, with a progress bar on stderr.

    Two runs on one machine give the same bits, whatever the number of threads: the true field comes
    from a fixed seed, and every sum has a fixed order.
    """
    from threadpoolctl import threadpool_limits
    from tqdm import tqdm

    with (
        cudeform.options(deterministic=True),  # on a GPU this has to be asked for
        threadpool_limits(1, user_api="blas"),  # the order of a sum would follow their number
        tqdm(total=effort.sizes * effort.steps, unit="step") as bar,
    ):
        true = smooth_field(*photo.shape[1:])
        fixed = deformed(photo, true)

        def advance(scale: int, error: Any) -> None:
            bar.update()
            if bar.n % 10 == 0:  # not at every step: reading the number waits for the GPU
                size = f"1/{scale}" if scale > 1 else "full"
                bar.set_description(f"{size} size, error {float(error) ** 0.5:.4f}", refresh=False)

        start = time.perf_counter()
        found = registration.register(
            photo, fixed, sizes=effort.sizes, steps=effort.steps, xp=xp, advance=advance
        )
        seconds = time.perf_counter() - start
        warped = registration.warp(xp.asarray(photo), xp.asarray(found), xp)
    return Result(photo, fixed, registration.as_numpy(warped), true, found, seconds)


def photograph(halvings: int) -> Floats:
    """The photograph that comes with matplotlib: (3, H, W), values from 0 to 1."""
    from matplotlib.cbook import get_sample_data
    from matplotlib.image import imread

    try:
        pixels = imread(get_sample_data(PHOTO, asfileobj=False))
    except FileNotFoundError:
        raise Unavailable(
            f"this matplotlib has no {PHOTO}; the one of PyPI has: pip install 'cudeform[demo]'"
        ) from None
    photo: Floats = pixels.transpose(2, 0, 1).astype(np.float32, order="C") / np.float32(255)
    for _ in range(halvings):
        photo = registration.halved(photo)
    return photo


def smooth_field(height: int, width: int) -> Floats:
    """A random field of displacements in pixels, (2, H, W).

    It is a sum of sines and the registration's is a sum of splines, so that the answer is not among
    the guesses. It is 0 along the border: what is seen in one image is seen in the other.
    """
    amounts = np.random.default_rng(SEED).standard_normal((2, WAVES, WAVES))
    waves = _sines(height) @ amounts @ _sines(width).T
    field: Floats = (waves * (AMPLITUDE * height / np.hypot(*waves).max())).astype(np.float32)
    return field


def _sines(size: int) -> NDArray[np.float64]:
    return np.sin(np.pi * np.outer((np.arange(size) + 0.5) / size, np.arange(1, WAVES + 1)))


def deformed(image: Floats, field: Floats) -> Floats:
    """The image whose pixel ``p`` is ``image`` at ``p + field(p)``, by SciPy.

    SciPy and not cudeform, so that a wrong sign or order of the displacements would show.
    """
    from scipy.ndimage import map_coordinates

    places = np.indices(field.shape[1:], np.float32) + field
    channels = [map_coordinates(channel, places, order=3, mode="nearest") for channel in image]
    return np.stack(channels).clip(0, 1)


def array_module(device: str) -> Any:
    """CuPy where there is a GPU for it and ``device`` allows, else NumPy.

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
        raise Unavailable("--device gpu needs CuPy and a GPU; see python -m cudeform info")
    return np


def engine_name(xp: Any) -> str:
    """What computes on arrays of ``xp``."""
    if xp is not np:
        name = xp.cuda.runtime.getDeviceProperties(xp.cuda.Device().id)["name"].decode()
        return f"the CuPy engine ({name})"
    threads = current().num_threads or available_threads()
    return f"the NumPy engine ({threads} thread{'s' if threads > 1 else ''})"


def check_extras() -> None:
    """Refuse to begin without the libraries that only the demo needs."""
    try:
        for name in EXTRAS:
            import_module(name)
    except ImportError as missing:
        raise Unavailable(
            f"the demo needs {missing.name}, which is not installed: pip install 'cudeform[demo]'"
        ) from None


def check_folder(output: Path) -> None:
    """Refuse to begin where the picture could not be written at the end."""
    if not output.parent.is_dir():
        raise Unavailable(f"there is no folder {output.parent} to write {output.name} into")


def summary(result: Result, engine: str, output: Path) -> str:
    """The demo in a line."""
    before, after = result.error_before, result.error_after
    return (
        f"error {before:.4f} -> {after:.4f} ({before / after:.1f}x smaller), "
        f"field off by {result.field_error:.2f} px on average, "
        f"{result.seconds:.1f} s on {engine}; picture: {output}"
    )


def rms(difference: Floats) -> float:
    """Root mean square."""
    return float(np.sqrt(np.square(difference).mean()))


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number
