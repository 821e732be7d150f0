"""A model and images for the tests of Keras's layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from cudeform.keras import DeformConv2D  # noqa: E402

# Backends and Keras warn of their own deprecations.
quiet = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)

IMAGES = np.random.default_rng(0).standard_normal((32, 10, 9, 3), dtype="float32")
SHIFTED = np.roll(IMAGES, 1, axis=1)[..., :2]


def model() -> Any:
    """Two layers, which can learn to shift the images."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((10, 9, 3)),
            DeformConv2D(8, 3, padding="same", activation="relu"),
            DeformConv2D(2, 3, padding="same", offset_groups=2),
        ]
    )
