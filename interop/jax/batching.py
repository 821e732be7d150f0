"""``vmap`` of the primitives: one call of the engine on larger arrays.

* If all examples share weight and bias, the examples become images: ``(B, N, ...)`` becomes a batch
  of ``B*N``.
* If each example has its own weight or bias, or a gradient of them, the examples become groups: B
  convolutions of C channels become one of ``B*C`` channels in ``B*groups`` groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax.interpreters import batching

from .call_spec import CallSpec
from .primitives import PRIMITIVES, bind

Batched = tuple[list[Any], list[int]]  # results, and the axis of the examples in each of them


def _batch(arrays: Sequence[Any], axes: Sequence[int | None], *, spec: CallSpec) -> Batched:
    size = next(a.shape[axis] for a, axis in zip(arrays, axes, strict=True) if axis is not None)
    mapped = [key.name for key, axis in zip(spec.inputs, axes, strict=True) if axis is not None]
    if not any(map(spec.is_parameter, (*mapped, *spec.outputs))):
        return _as_images(spec, size, arrays, axes)
    if size == 0:
        described = zip(spec.output_shapes(), spec.output_dtypes(), strict=True)
        results = [jnp.zeros((0, *shape), dtype) for shape, dtype in described]
        return results, [0] * len(results)
    return _as_groups(spec, size, arrays, axes)


def _as_images(
    spec: CallSpec, size: int, arrays: Sequence[Any], axes: Sequence[int | None]
) -> Batched:
    batch = spec.geometry.batch
    folded = [
        array if spec.is_parameter(key.name) else _merge(_examples_at(0, array, axis, size), 0)
        for key, array, axis in zip(spec.inputs, arrays, axes, strict=True)
    ]
    results = bind(spec.with_batch(size * batch), folded)
    return [r.reshape(size, batch, *r.shape[1:]) for r in results], [0] * len(results)


def _as_groups(
    spec: CallSpec, size: int, arrays: Sequence[Any], axes: Sequence[int | None]
) -> Batched:
    folded = []
    for key, array, axis in zip(spec.inputs, arrays, axes, strict=True):
        channels = _channel_axis(spec, key.name)
        folded.append(_merge(_examples_at(channels, array, axis, size), channels))
    out_axes = [_channel_axis(spec, name) for name in spec.outputs]
    results = zip(bind(spec.of_examples(size), folded), out_axes, strict=True)
    return [_split(result, axis, size) for result, axis in results], out_axes


def _channel_axis(spec: CallSpec, name: str) -> int:
    return 0 if spec.is_parameter(name) else 1


def _examples_at(target: int, array: Any, axis: int | None, size: int) -> Any:
    """Move the axis of the examples to ``target``; without such an axis, repeat the array."""
    if axis is not None:
        return jnp.moveaxis(array, axis, target)
    shape = (*array.shape[:target], size, *array.shape[target:])
    return jnp.broadcast_to(jnp.expand_dims(array, target), shape)


def _merge(array: Any, axis: int) -> Any:
    shape = array.shape
    return array.reshape(*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :])


def _split(array: Any, axis: int, size: int) -> Any:
    shape = array.shape
    return array.reshape(*shape[:axis], size, shape[axis] // size, *shape[axis + 1 :])


def register() -> None:
    """Register the rule with JAX."""
    for primitive in PRIMITIVES.values():
        batching.primitive_batchers[primitive] = _batch
