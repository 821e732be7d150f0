"""The weights of the corners of all samples of a block, and the corners that they are for."""

from __future__ import annotations

from typing import Any

import numpy as np

from cudeform.cpu.loops.coordinates import BLOCK, FLAGS, MASK, fractions
from cudeform.cpu.loops.corners import corner_weights
from cudeform.cpu.loops.jit import inlined
from cudeform.cpu.loops.sampling import contributing_corners
from cudeform.cpu.loops.scatter import corners_receiving_grad, scatter_weights
from cudeform.cpu.loops.sums.coordinates import CORNERS, WEIGHTS, level_of
from cudeform.cpu.loops.unrolled import item, per_corner

int32 = np.int32


@inlined
def set_weight(corner: Any, block: Any, k: Any, weights: Any) -> None:
    """Write the weight of a corner of sample ``k``."""
    block.numbers[WEIGHTS + corner * BLOCK + k] = item(weights, corner)


@inlined
def weight_of(corner: Any, block: Any, k: Any) -> Any:
    """The weight of a corner of sample ``k``."""
    return block.numbers[WEIGHTS + corner * BLOCK + k]


@inlined
def weights_of(level: Any, block: Any, k: Any) -> Any:
    """The weights of all corners of sample ``k``."""
    return per_corner(level.size, weight_of, (block, k))


@inlined
def weigh_samples(sizes: Any, block: Any) -> None:
    """Write the weights of the corners, without the mask, and the corners that contribute."""
    for k in range(BLOCK):
        level = level_of(sizes, block, k)
        weights = corner_weights(fractions(level, block, k))
        per_corner(level.size, set_weight, (block, k, weights))
        block.integers[CORNERS + k] = int32(contributing_corners(level, block.integers[FLAGS + k]))


@inlined
def weigh_gradients(sizes: Any, block: Any) -> None:
    """Write the weights of the corners, with the mask, and the corners that receive a gradient."""
    for k in range(BLOCK):
        level = level_of(sizes, block, k)
        weights = scatter_weights(fractions(level, block, k), block.numbers[MASK + k])
        per_corner(level.size, set_weight, (block, k, weights))
        corners = contributing_corners(level, block.integers[FLAGS + k])
        block.integers[CORNERS + k] = int32(corners_receiving_grad(level, corners, weights))
