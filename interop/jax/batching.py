"""``vmap`` of the primitives: one call of the engine on larger arrays.

* Where all examples share the filters, the examples become images: ``(B, N, ...)`` is a batch of
  ``B*N``.
* Where each example has its own weight, bias or gradients of them, the examples become groups: B
  convolutions of C channels are one of ``B*C`` channels in ``B*groups`` groups.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax.interpreters import batching

from .call_spec import Task, is_filter, shapes_of
from .primitives import PRIMITIVES, bind

Fold = Callable[[Task, int, Sequence[Any], Sequence[Any]], tuple[list[Any], list[int]]]


def _batch(arrays: Sequence[Any], axes: Sequence[Any], *, task: Task) -> Any:
    size = next(a.shape[axis] for a, axis in zip(arrays, axes, strict=True) if axis is not None)
    named = zip(task.inputs, axes, strict=True)
    own_filters = any(is_filter(name) for name, axis in named if axis is not None)
    if not own_filters and not any(map(is_filter, task.outputs)):
        return _as_images(task, size, arrays, axes)
    if size == 0:
        return [jnp.zeros((0, *shape), task.dtype) for shape in shapes_of(task)[1]], [0] * len(
            task.outputs
        )
    return _as_groups(task, size, arrays, axes)


def _as_images(task: Task, size: int, arrays: Sequence[Any], axes: Sequence[Any]) -> Any:
    batch = task.geometry.batch
    folded = [
        array if is_filter(name) else _merge(_to(array, axis, 0, size), 0)
        for name, array, axis in zip(task.inputs, arrays, axes, strict=True)
    ]
    results = bind(task.with_sizes(batch=size * batch), folded)
    return [r.reshape(size, batch, *r.shape[1:]) for r in results], [0] * len(results)


def _as_groups(task: Task, size: int, arrays: Sequence[Any], axes: Sequence[Any]) -> Any:
    g = task.geometry
    at = [0 if is_filter(name) else 1 for name in task.inputs]
    folded = [
        _merge(_to(array, axis, place, size), place)
        for array, axis, place in zip(arrays, axes, at, strict=True)
    ]
    many = task.with_sizes(
        channels=size * g.channels,
        out_channels=size * g.out_channels,
        groups=size * g.groups,
        offset_groups=size * g.offset_groups,
    )
    at = [0 if is_filter(name) else 1 for name in task.outputs]
    results = bind(many, folded)
    return [_split(r, place, size) for r, place in zip(results, at, strict=True)], at


def _to(array: Any, axis: int | None, place: int, size: int) -> Any:
    """The array with the examples along axis ``place``."""
    if axis is not None:
        return jnp.moveaxis(array, axis, place)
    shape = (*array.shape[:place], size, *array.shape[place:])
    return jnp.broadcast_to(jnp.expand_dims(array, place), shape)


def _merge(array: Any, axis: int) -> Any:
    shape = array.shape
    return array.reshape(*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :])


def _split(array: Any, axis: int, size: int) -> Any:
    shape = array.shape
    return array.reshape(*shape[:axis], size, shape[axis] // size, *shape[axis + 1 :])


def register() -> None:
    """Tell JAX the rule."""
    for primitive in PRIMITIVES.values():
        batching.primitive_batchers[primitive] = _batch
