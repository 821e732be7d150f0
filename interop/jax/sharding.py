"""Arrays spread over devices: a call whose batch is spread stays where its images are.

Under plain ``jit`` a ``custom_partitioning`` rule tells the partitioner so; gradients of weight and
bias are summed over the devices. Inside ``shard_map`` a call is local, as everything is there.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from math import prod
from typing import Any

import jax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.interpreters import mlir
from jax.sharding import NamedSharding, PartitionSpec

from .call_spec import Task, is_filter, shapes_of
from .lowering import execute


def needs_devices(primitive: Any) -> None:
    """Let JAX tell the lowering of a primitive which devices it is for."""
    # There is no public way to ask for it; a primitive that is not registered is just not
    # partitioned (is_partitioned sees no devices).
    try:
        from jax._src import dispatch

        dispatch.prim_requires_devices_during_lowering.add(primitive)
    except (ImportError, AttributeError):
        pass


def is_partitioned(context: Any) -> bool:
    """Whether the partitioner will cut the program that is being lowered."""
    axes = context.module_context.axis_context
    if isinstance(axes, mlir.ShardingContext):
        devices = axes.device_assignment
        return devices is not None and len(devices) > 1
    if isinstance(axes, mlir.SPMDAxisContext):
        return set(axes.manual_axes) != set(axes.mesh.axis_names)
    return False


def vary_alike(arrays: Iterable[Any]) -> list[Any]:
    """Mark all arrays as varying over the axes of ``shard_map`` over which one of them varies.

    This is what JAX's own operators do with their operands: the transpose of the mark is the sum
    over devices that makes the gradient of an unsharded weight complete.
    """
    arrays = list(arrays)
    axes = [_varying(array) for array in arrays]
    every = frozenset[Any]().union(*axes)
    return [
        array if have == every else _vary(array, tuple(every - have))
        for array, have in zip(arrays, axes, strict=True)
    ]


def _varying(array: Any) -> frozenset[Any]:
    aval = jax.typeof(array)
    kind = getattr(aval, "manual_axis_type", aval)
    axes: frozenset[Any] = getattr(kind, "varying" if kind is not aval else "vma", frozenset())
    return axes


def _vary(array: Any, axes: tuple[Any, ...]) -> Any:
    if hasattr(jax.lax, "pcast"):
        return jax.lax.pcast(array, axes, to="varying")
    return jax.lax.pvary(array, axes)


@partial(custom_partitioning, static_argnums=(0, 1, 2))
def execute_sharded(task: Task, platform: str, hosted: int | None, *arrays: Any) -> list[Any]:
    """Stage a task into a program for several devices; ``hosted`` is what ``host`` gave."""
    return execute(task, platform, *arrays, hosted=hosted)


def _partition(
    task: Task, platform: str, hosted: int | None, mesh: Any, arrays: Any, results: Any
) -> Any:
    batch_axes = _batch_axes(task, mesh, arrays)
    shards = prod(mesh.shape[axis] for axis in batch_axes)
    local = task.with_sizes(batch=task.geometry.batch // shards)

    def run(*arrays: Any) -> list[Any]:
        results = execute(local, platform, *arrays, hosted=hosted)
        return [
            jax.lax.psum(result, batch_axes) if batch_axes and is_filter(name) else result
            for name, result in zip(task.outputs, results, strict=True)
        ]

    inputs, outputs = (
        [NamedSharding(mesh, _spec(name, batch_axes)) for name in names]
        for names in (task.inputs, task.outputs)
    )
    return mesh, run, outputs, tuple(inputs)


def _batch_axes(task: Task, mesh: Any, arrays: Any) -> tuple[Any, ...]:
    """Axes of the mesh over which the images are spread."""
    first = arrays[task.inputs.index("input")].sharding.spec[0]
    axes = first if isinstance(first, tuple) else () if first is None else (first,)
    shards = prod(mesh.shape[axis] for axis in axes)
    return axes if task.geometry.batch % shards == 0 else ()


def _spec(name: str, batch_axes: tuple[Any, ...]) -> PartitionSpec:
    return PartitionSpec() if is_filter(name) or not batch_axes else PartitionSpec(batch_axes)


def _infer(task: Task, platform: str, hosted: Any, mesh: Any, arrays: Any, results: Any) -> Any:
    """Shardings of the results, for the partitioner that came before Shardy."""
    axes = _batch_axes(task, mesh, arrays)
    return [NamedSharding(mesh, _spec(name, axes)) for name in task.outputs]


def _rule(task: Task, platform: str, hosted: Any, mesh: Any, inputs: Any, outputs: Any) -> str:
    """Which dimensions belong together: the first of everything that is an image."""
    counter = iter(range(100))

    def dimensions(name: str, rank: int) -> str:
        own = [f"d{next(counter)}" for _ in range(rank)]
        return " ".join(own if is_filter(name) else ["n", *own[1:]])

    sides = (
        ", ".join(map(dimensions, names, map(len, shapes)))
        for names, shapes in zip((task.inputs, task.outputs), shapes_of(task), strict=True)
    )
    return " -> ".join(sides)


execute_sharded.def_partition(_partition, infer_sharding_from_operands=_infer, sharding_rule=_rule)
