"""Find the displacement between two pictures by gradient descent, compiled as one program.

python examples/jax_fit_offsets.py

The fixed picture is the moving one, warped by a smooth field. A deformable convolution of one tap
with a weight of 1 samples the moving picture at each pixel plus an offset; gradient descent on the
difference finds the offsets. The whole descent runs inside ``jax.jit``.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

import cudeform

SIZE = 48
STEPS = 400
RATE = 0.05


def picture() -> Any:
    """Smooth blobs, (1, 1, SIZE, SIZE)."""
    noise = jax.random.normal(jax.random.key(0), (1, 1, SIZE, SIZE))
    distance = jnp.arange(-6, 7) / 3.0
    blur = jnp.exp(-(distance**2) / 2)
    kernel = (blur[:, None] * blur)[None, None]
    smooth = jax.lax.conv_general_dilated(noise, kernel, (1, 1), "SAME")
    return smooth / smooth.std()


def true_field() -> Any:
    """Vertical and horizontal displacements of up to 1.5 pixels, (1, 2, SIZE, SIZE)."""
    y, x = jnp.mgrid[:SIZE, :SIZE] / SIZE
    return 1.5 * jnp.stack([jnp.sin(2 * jnp.pi * x), jnp.cos(2 * jnp.pi * y)])[None]


def warp(image: Any, offset: Any) -> Any:
    """Sample an image at each pixel plus its offset."""
    return cudeform.deform_conv2d(image, offset, jnp.ones((1, 1, 1, 1)))


def loss(offset: Any, moving: Any, fixed: Any) -> Any:
    """Mean squared difference of the pictures, plus a penalty on the slopes of the field."""
    difference = jnp.mean((warp(moving, offset) - fixed) ** 2)
    slopes = [jnp.diff(offset, axis=axis) for axis in (2, 3)]
    return difference + 0.02 * sum(jnp.mean(slope**2) for slope in slopes)


@partial(jax.jit, static_argnames="steps")
def fit(moving: Any, fixed: Any, steps: int = STEPS) -> tuple[Any, Any]:
    """Minimise by Adam; return the field and the loss of every step."""

    def step(state: tuple[Any, Any, Any], count: Any) -> tuple[tuple[Any, Any, Any], Any]:
        offset, mean, square = state
        value, slope = jax.value_and_grad(loss)(offset, moving, fixed)
        mean = 0.9 * mean + 0.1 * slope
        square = 0.99 * square + 0.01 * slope**2
        unbiased = mean / (1 - 0.9**count), square / (1 - 0.99**count)
        offset -= RATE * unbiased[0] / (jnp.sqrt(unbiased[1]) + 1e-8)
        return (offset, mean, square), value

    start = jnp.zeros((1, 2, SIZE, SIZE))
    counts = jnp.arange(1, steps + 1)
    (offset, _, _), values = jax.lax.scan(step, (start, start, start), counts)
    return offset, values


def main() -> None:
    moving, truth = picture(), true_field()
    fixed = warp(moving, truth)
    offset, values = fit(moving, fixed)
    inner = (..., slice(4, -4), slice(4, -4))  # near the edge, samples are outside the picture
    error = jnp.sqrt(jnp.mean((offset - truth)[inner] ** 2))
    start = jnp.sqrt(jnp.mean(truth[inner] ** 2))
    print(f"loss {values[0]:.4f} -> {values[-1]:.6f} in {len(values)} steps")
    print(f"error of the field {start:.3f} -> {error:.3f} pixels")


if __name__ == "__main__":
    main()
