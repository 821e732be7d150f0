"""The demo's photograph, and the deformation that the registration recovers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cudeform.commands import CommandError
from cudeform.commands.demo_registration import Floats, halved

PHOTO = "grace_hopper.jpg"
SEED = 2
AMPLITUDE = 0.04  # largest displacement, as a fraction of the image's height
WAVES = 3  # largest number of half waves of the field along each axis


def photograph(halvings: int) -> Floats:
    """The photograph that comes with matplotlib: (3, H, W), values from 0 to 1.

    Raises:
        CommandError: this installation of matplotlib lacks the photograph.
    """
    from matplotlib.cbook import get_sample_data
    from matplotlib.image import imread

    try:
        pixels = imread(get_sample_data(PHOTO, asfileobj=False))
    except FileNotFoundError:
        raise CommandError(
            f"this matplotlib has no {PHOTO}; the one on PyPI has it: pip install 'cudeform[demo]'"
        ) from None
    photo: Floats = pixels.transpose(2, 0, 1).astype(np.float32, order="C") / np.float32(255)
    for _ in range(halvings):
        photo = halved(photo)
    return photo


def smooth_field(height: int, width: int) -> Floats:
    """A random field of displacements in pixels, (2, H, W), which is 0 along the border.

    The field is a sum of sines. The registration's splines cannot represent it exactly, so the
    test is fair. Since it is 0 along the border, both images show the same part of the scene.
    """
    amplitudes = np.random.default_rng(SEED).standard_normal((2, WAVES, WAVES))
    waves = _sines(height) @ amplitudes @ _sines(width).T
    field: Floats = (waves * (AMPLITUDE * height / np.hypot(*waves).max())).astype(np.float32)
    return field


def _sines(size: int) -> NDArray[np.float64]:
    return np.sin(np.pi * np.outer((np.arange(size) + 0.5) / size, np.arange(1, WAVES + 1)))


def deformed(image: Floats, field: Floats) -> Floats:
    """The image whose pixel ``p`` is ``image`` at ``p + field(p)``, computed by SciPy.

    SciPy is independent of cudeform, so a wrong sign or order of the displacements would be seen.
    """
    from scipy.ndimage import map_coordinates

    coordinates = np.indices(field.shape[1:], np.float32) + field
    channels = [map_coordinates(channel, coordinates, order=3, mode="nearest") for channel in image]
    return np.stack(channels).clip(0, 1)
