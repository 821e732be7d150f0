"""Registration of two images by gradient descent on a field of displacements.

A warp is a deformable convolution with one tap and the identity as its weight: pixel ``p`` of the
output is the input at ``p + offset(p)``. ``deform_conv2d`` computes the warped image and
``deform_conv2d_backward`` computes the gradient of the error with respect to every displacement.

Images are (C, H, W); fields are (2, H, W), dy then dx, in pixels of the full image. ``xp`` is NumPy
or CuPy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import cudeform

Array = Any  # a NumPy or CuPy array
Floats = NDArray[np.float32]

CELLS = 15  # spline intervals along each axis: fewer make it too stiff, more fit noise
SMOOTHNESS = 3e-5  # weight of the bending penalty, relative to the mean squared difference
STEP = 0.25  # largest change of a displacement in a step, in pixels of the shrunk image
BETA_MEAN, BETA_SQUARE = 0.9, 0.99  # Adam's decay rates


@dataclass(frozen=True)
class Result:
    """A registration with a known true field; images (C, H, W), fields (2, H, W).

    Attributes:
        moving: the image to warp.
        fixed: the target image: its pixel ``p`` is ``moving`` at ``p + true(p)``.
        registered: ``moving`` warped by ``found``.
        true: true displacements in pixels, dy then dx.
        found: displacements recovered from the two images.
        seconds: duration of the registration.
    """

    moving: Floats
    fixed: Floats
    registered: Floats
    true: Floats
    found: Floats
    seconds: float

    @property
    def error_before(self) -> float:
        """Root mean square difference between ``moving`` and ``fixed``, over all elements."""
        return rms(self.moving - self.fixed)

    @property
    def error_after(self) -> float:
        """Root mean square difference between ``registered`` and ``fixed``."""
        return rms(self.registered - self.fixed)

    @property
    def field_error(self) -> float:
        """Mean distance in pixels between the true and the recovered displacements."""
        return float(np.hypot(*(self.found - self.true)).mean())


def rms(difference: Floats) -> float:
    """Root mean square."""
    return float(np.sqrt(np.square(difference).mean()))


def register(
    moving: Floats,
    fixed: Floats,
    *,
    sizes: int,
    steps: int,
    xp: Any = np,
    advance: Callable[[int, Array], None] = lambda scale, error: None,
) -> Floats:
    """Compute the field that warps one image onto another.

    The search starts on small images, where a large displacement is only a pixel or two and the
    gradient points towards the solution. It ends on the images at full size.

    Args:
        moving: (C, H, W), values from 0 to 1.
        fixed: (C, H, W).
        sizes: number of image sizes, each half of the next.
        steps: number of gradient steps at each size.
        xp: NumPy or CuPy.
        advance: called after each step with the factor by which the images are shrunk, and their
            mean squared difference.

    Returns:
        The field (2, H, W) for which ``warp(moving, field)`` approximates ``fixed``.
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
            # The field is linear in the control points, so their gradient is the transposed map
            # applied to the gradient of the field.
            field = (up @ control @ across) / scale
            error, gradient = error_and_gradient(small_moving, small_fixed, field, xp)
            gradient = (up.T @ gradient @ across.T) / scale
            gradient = gradient + SMOOTHNESS * (stiffness @ control + control @ stiffness)
            control = control - STEP * scale * ease(step / steps) * adam.direction(gradient)
            advance(scale, error)
    found: Floats = as_numpy(rows @ control @ columns.T)
    return found


def warp(image: Array, field: Array, xp: Any = np) -> Array:
    """The image whose pixel ``p`` is ``image`` at ``p + field(p)``."""
    return cudeform.deform_conv2d(image[None], field[None], identity(image, xp))[0]


def error_and_gradient(
    moving: Array, fixed: Array, field: Array, xp: Any = np
) -> tuple[Array, Array]:
    """Mean squared difference of the warped image, and its gradient with respect to the field."""
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
    """The 1x1 weight that leaves each channel unchanged."""
    return xp.eye(len(image), dtype=xp.float32)[:, :, None, None]


class Adam:
    """Adaptive moment estimation (Kingma & Ba, 2015)."""

    def __init__(self, parameters: Array) -> None:
        """Set the moments to 0, with the shape and dtype of ``parameters``."""
        self.steps = 0
        self.mean = 0 * parameters
        self.square = 0 * parameters

    def direction(self, gradient: Array) -> Array:
        """Update the moments; return the scaled gradient, about 1 in size for each parameter."""
        self.steps += 1
        self.mean = BETA_MEAN * self.mean + (1 - BETA_MEAN) * gradient
        self.square = BETA_SQUARE * self.square + (1 - BETA_SQUARE) * gradient * gradient
        mean = self.mean / (1 - BETA_MEAN**self.steps)
        square = self.square / (1 - BETA_SQUARE**self.steps)
        return mean / (square**0.5 + 1e-12)


def ease(progress: float) -> float:
    """Relative step length of a cosine schedule, from 1 at the start to 0 at the end."""
    return float(0.5 + 0.5 * np.cos(np.pi * progress))


def halved(image: Floats) -> Floats:
    """Every second pixel of every second row, after a blur against aliasing."""
    from scipy.ndimage import gaussian_filter

    blurred: Floats = gaussian_filter(image, (0, 1, 1))
    return np.ascontiguousarray(blurred[:, ::2, ::2])


def spline_matrix(size: int) -> Floats:
    """Cubic B-splines at pixels 0 ... size - 1: (size, CELLS + 3), one column per control point."""
    distance = np.abs(np.linspace(0, CELLS, size)[:, None] - np.arange(-1, CELLS + 2))
    near = (4 - 6 * distance**2 + 3 * distance**3) / 6
    far = (2 - distance).clip(0) ** 3 / 6
    return np.where(distance < 1, near, far).astype(np.float32)


def bending_matrix(spacing: float) -> Floats:
    """``B`` such that ``c @ B @ c`` is the sum of squared second differences of the field.

    Args:
        spacing: distance between neighbouring control points, in pixels.
    """
    bends = np.diff(np.eye(CELLS + 3), 2, axis=0) / spacing
    return (bends.T @ bends).astype(np.float32)


def as_numpy(array: Array) -> Any:
    """Convert a NumPy or CuPy array to NumPy."""
    return array.get() if hasattr(array, "get") else array
