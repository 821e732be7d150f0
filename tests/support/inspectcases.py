"""The layer and the offsets that the tests of sampling locations and their pictures share."""

from typing import Any

import numpy as np

# Settings of a layer whose output for this image is 5 x 7.
CASE = {"kernel_size": (2, 3), "stride": (2, 1), "padding": ((1, 0), (2, 1)), "dilation": (1, 2)}
IMAGE = (9, 8)


def random_offset(*, seed: int = 0, scale: float = 2.0) -> Any:
    """The offset of two images in two offset groups."""
    rng = np.random.default_rng(seed)
    return rng.normal(0, scale, (2, 2 * 2 * 2 * 3, 5, 7)).astype(np.float32)
