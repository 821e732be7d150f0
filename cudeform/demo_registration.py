"""Registration of two images by gradient descent on a field of displacements.

A warp is a deformable convolution with one tap and an identity for a weight: output pixel ``p`` is
the input at ``p + offset(p)``. So ``deform_conv2d`` gives the warped image, ``deform_conv2d_backward``
the slope of the error in every displacement, and nothing else of a framework is needed.

Written against an array module ``xp``, NumPy or CuPy. Images are (C, H, W); fields are (2, H, W),
dy then dx, in pixels of the full image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BSpline
from scipy.ndimage import gaussian_filter

import cudeform

Image = NDArray[np.float32]
Field = NDArray[np.float32]

SPLINE_CELLS = 15  # along each axis: fewer cannot follow the field, more are at a loss on plain walls
SMOOTHNESS = 1e-4  # price of a bend, against the mean squared difference of the images
STEP = 0.25  # pixels, of the image at its current size, that a displacement moves in one step


def register(
    moving: Image,
    fixed: Image,
    *,
    sizes: int,
    steps: int,
    xp: Any = np,
    advance: Callable[[int, Any], None] = lambda scale, error: None,
) -> Field:
    """The field ``u`` for which ``warp(moving, u)`` is ``fixed``.

    Begins with the images shrunk by ``2**(sizes - 1)``, where a large displacement is a pixel or two
    and the slope points the right way, and ends at full size.

    Args:
        moving: (C, H, W), values about 0 to 1.
        fixed: (C, H, W).
        sizes: how many sizes of the images, each half of the next.
        steps: steps of gradient descent at each size.
        xp: module of the arrays to compute with.
        advance: called after each step with the images' scale and their mean squared difference.

    Returns:
        The field, (2, H, W).
    """
    height, width = fixed.shape[1:]
    rows, columns = spline_matrix(height, SPLINE_CELLS), spline_matrix(width, SPLINE_CELLS)
    control = xp.zeros((2, rows.shape[1], columns.shape[1]), xp.float32)
    bend = bending_slope(height, xp)
    for level in reversed(range(sizes)):
        scale = 2**level
        surface = SplineSurface(xp.asarray(rows[::scale]), xp.asarray(columns[::scale]))
        images = [xp.asarray(shrunk(image, level)) for image in (moving, fixed)]
        descent = Adam(control)
        for step in range(steps):
            error, slope = error_and_slope(*images, surface.values(control) / scale)
            slope = surface.adjoint(slope) / scale + bend(control)
            # Half a cosine: long steps first, and then short ones, to come to rest.
            rate = STEP * scale * 0.5 * (1 + np.cos(np.pi * (step + 0.5) / steps))
            control = control - descent.move(slope, float(rate))
            advance(scale, error)
    field = SplineSurface(xp.asarray(rows), xp.asarray(columns)).values(control)
    return to_numpy(field)


def warp(image: Any, offset: Any, xp: Any = np) -> Any:
    """The image whose pixel ``p`` is ``image`` at ``p + offset(p)``, bilinear."""
    return cudeform.deform_conv2d(image[None], offset[None], _identity(image, xp))[0]
