"""Registration of two images by gradient descent on a field of displacements.

A warp is a deformable convolution with one tap and an identity for a weight: pixel ``p`` of the
output is the input at ``p + offset(p)``. So ``deform_conv2d`` gives the warped image and
``deform_conv2d_backward`` the slope of the error in every displacement; no framework is needed.

Images are (C, H, W); fields are (2, H, W), dy then dx, in pixels of the full image. ``xp`` is the
module of the arrays to compute with, NumPy or CuPy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

import cudeform

Array = Any  # of xp
Floats = NDArray[np.float32]

CELLS = 15  # of the spline, along each axis: fewer are too stiff, more have nothing to hold on to
SMOOTHNESS = 3e-5  # what a bend of the field costs, against the mean squared difference
STEP = 0.25  # how far a displacement moves at a time at most, in pixels of the shrunk image
MEMORY = 0.9, 0.99  # Adam's: of the slope and of its square


def register(
    moving: Floats,
    fixed: Floats,
    *,
    sizes: int,
    steps: int,
    xp: Any = np,
    advance: Callable[[int, Array], None] = lambda scale, error: None,
) -> Floats:
    """The field that warps one image onto another.

    It begins with small images, where a large displacement is a pixel or two and the slope points
    the right way, and ends with the images as they are.

    Args:
        moving: (C, H, W), values from 0 to 1.
        fixed: (C, H, W).
        sizes: how many sizes of the images, each half of the next.
        steps: steps of gradient descent at each size.
        xp: NumPy or CuPy.
        advance: called after each step with how many times smaller the images are, and their mean
            squared difference.

    Returns:
        ``field`` for which ``warp(moving, field)`` is like ``fixed``: (2, H, W).
    """
    height, width = fixed.shape[1:]
    rows, columns = xp.asarray(spline_matrix(height)), xp.asarray(spline_matrix(width))
    pyramid = [(moving, fixed)]
    for _ in range(sizes - 1):
        pyramid.append((halved(pyramid[-1][0]), halved(pyramid[-1][1])))
    control = xp.zeros((2, rows.shape[1], columns.shape[1]), xp.float32)
    stiffness = xp.asarray(bending_matrix(height / CELLS))
    for level in reversed(range(sizes)):
        scale = 2**level
        small_moving, small_fixed = map(xp.asarray, pyramid[level])
        # Pixel i of a shrunk image is pixel scale * i of the full one.
        up, across = rows[::scale], columns[::scale].T
        adam = Adam(control)
        for step in range(steps):
            # The field is linear in the control points; slopes go back by the transposes.
            field = (up @ control @ across) / scale
            error, slope = error_and_slope(small_moving, small_fixed, field, xp)
            slope = (up.T @ slope @ across.T) / scale
            slope = slope + SMOOTHNESS * (stiffness @ control + control @ stiffness)
            control = control - STEP * scale * ease(step / steps) * adam.direction(slope)
            advance(scale, error)
    found: Floats = as_numpy(rows @ control @ columns.T)
    return found


def warp(image: Array, field: Array, xp: Any = np) -> Array:
    """The image whose pixel ``p`` is ``image`` at ``p + field(p)``."""
    return cudeform.deform_conv2d(image[None], field[None], identity(image, xp))[0]


def error_and_slope(moving: Array, fixed: Array, field: Array, xp: Any = np) -> tuple[Array, Array]:
    """Mean squared difference of the warped image, and its derivative in every displacement."""
    difference = warp(moving, field, xp) - fixed
    gradients = cudeform.deform_conv2d_backward(
        (2 / difference.size) * difference[None],
        moving[None],
        field[None],
        identity(moving, xp),
        needs=("offset",),
    )
    return (difference * difference).mean(), gradients.offset[0]


def identity(image: Array, xp: Any) -> Array:
    """The weight, of a single tap, that leaves each channel as it is."""
    return xp.eye(len(image), dtype=xp.float32)[:, :, None, None]


class Adam:
    """Gradient descent with one step length for steep and gentle parameters (Kingma & Ba, 2015)."""

    def __init__(self, parameters: Array) -> None:
        """Begin at rest; only shape and dtype of ``parameters`` matter."""
        self.steps = 0
        self.mean = 0 * parameters
        self.square = 0 * parameters

    def direction(self, slope: Array) -> Array:
        """Where to go uphill, about 1 in each parameter."""
        first, second = MEMORY
        self.steps += 1
        self.mean = first * self.mean + (1 - first) * slope
        self.square = second * self.square + (1 - second) * slope * slope
        mean = self.mean / (1 - first**self.steps)
        square = self.square / (1 - second**self.steps)
        return mean / (square**0.5 + 1e-12)


def ease(progress: float) -> float:
    """Length of a step: 1 at first, and at the end so short that the field comes to rest."""
    return float(0.5 + 0.5 * np.cos(np.pi * progress))


def halved(image: Floats) -> Floats:
    """Every second pixel of every second row, after blurring what that could not hold."""
    from scipy.ndimage import gaussian_filter

    blurred: Floats = gaussian_filter(image, (0, 1, 1))
    return np.ascontiguousarray(blurred[:, ::2, ::2])


def spline_matrix(size: int) -> Floats:
    """Cubic B-splines at pixels 0 ... size - 1: (size, CELLS + 3), one column a control point."""
    distance = np.abs(np.linspace(0, CELLS, size)[:, None] - np.arange(-1, CELLS + 2))
    near = (4 - 6 * distance**2 + 3 * distance**3) / 6
    far = (2 - distance).clip(0) ** 3 / 6
    return np.where(distance < 1, near, far).astype(np.float32)


def bending_matrix(spacing: float) -> Floats:
    """``B`` such that ``c @ B @ c`` is how much the slope of the field changes from cell to cell.

    Args:
        spacing: pixels from one control point to the next.
    """
    bends = np.diff(np.eye(CELLS + 3), 2, axis=0) / spacing
    return (bends.T @ bends).astype(np.float32)


def as_numpy(array: Array) -> Any:
    """The array, in NumPy."""
    return array.get() if hasattr(array, "get") else array
