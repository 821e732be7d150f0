"""Arrays spread over devices: each device computes its own images.

Under plain ``jit``, a ``custom_partitioning`` rule keeps images on their devices, and gradients of
weight and bias are summed over the devices. Inside ``shard_map`` all arrays are local, so the call
is local too.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from math import prod
from typing import Any

import jax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.interpreters import mlir
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from .call_spec import CallSpec
from .lowering import Target, execute

# ---- devices, when a primitive is lowered --------------------------------------------------------


def require_devices(primitive: Any) -> None:
    """Make JAX pass the devices to the lowering rule of a primitive."""
    # JAX has no public function for this. If the private one is missing, is_partitioned sees no
    # devices, and the primitive is not partitioned.
    try:
        from jax._src import dispatch

        dispatch.prim_requires_devices_during_lowering.add(primitive)
    except (ImportError, AttributeError):
        pass


def devices_of(context: Any) -> list[Any]:
    """The devices for which a program is lowered; empty if JAX does not know them."""
    axes = context.module_context.axis_context
    if isinstance(axes, mlir.ShardingContext):
        return list(axes.device_assignment or ())
    mesh = getattr(axes, "mesh", None)
    return list(mesh.devices.flat) if isinstance(mesh, Mesh) else []


def is_partitioned(context: Any) -> bool:
    """Whether the partitioner will split the program that is being lowered."""
    axes = context.module_context.axis_context
    if isinstance(axes, mlir.SPMDAxisContext):
        return set(axes.manual_axes) != set(axes.mesh.axis_names)
    return isinstance(axes, mlir.ShardingContext) and len(devices_of(context)) > 1


# ---- under shard_map -----------------------------------------------------------------------------


def vary_alike(arrays: Iterable[Any]) -> list[Any]:
    """Mark all arrays as varying over every axis of ``shard_map`` over which any of them varies.

    JAX's own operators do the same with their operands. The transpose of this mark is a sum over
    devices, which completes the gradient of an unsharded weight.
    """
    arrays = list(arrays)
    varying = [_varying_axes(array) for array in arrays]
    all_axes = frozenset[Any]().union(*varying)
    return [
        array if axes == all_axes else _vary(array, tuple(all_axes - axes))
        for array, axes in zip(arrays, varying, strict=True)
    ]


def _varying_axes(array: Any) -> frozenset[Any]:
    aval = jax.typeof(array)
    manual = getattr(aval, "manual_axis_type", None)  # ``aval.vma`` in older versions
    axes: frozenset[Any] = getattr(aval, "vma", frozenset()) if manual is None else manual.varying
    return axes


def _vary(array: Any, axes: tuple[Any, ...]) -> Any:
    if hasattr(jax.lax, "pcast"):
        return jax.lax.pcast(array, axes, to="varying")
    return jax.lax.pvary(array, axes)


# ---- under jit -----------------------------------------------------------------------------------


@partial(custom_partitioning, static_argnums=(0, 1))
def execute_sharded(spec: CallSpec, target: Target, *arrays: Any) -> list[Any]:
    """Add a call to the traced program of several devices."""
    return execute(spec, target, *arrays)


def _partition(spec: CallSpec, target: Target, mesh: Any, arrays: Any, results: Any) -> Any:
    batch_axes = _batch_axes(spec, mesh, arrays)
    shards = prod(mesh.shape[axis] for axis in batch_axes)
    local = spec.with_batch(spec.geometry.batch // shards)

    def run(*arrays: Any) -> list[Any]:
        results = execute(local, target, *arrays)
        return [
            jax.lax.psum(result, batch_axes) if batch_axes and spec.is_parameter(name) else result
            for name, result in zip(spec.outputs, results, strict=True)
        ]

    inputs = [_sharding(spec, mesh, argument.name, batch_axes) for argument in spec.inputs]
    outputs = [_sharding(spec, mesh, name, batch_axes) for name in spec.outputs]
    return mesh, run, outputs, tuple(inputs)


def _batch_axes(spec: CallSpec, mesh: Any, arrays: Any) -> tuple[Any, ...]:
    """Axes of the mesh over which the images are spread; empty if they do not divide the batch."""
    first = arrays[spec.input_index()].sharding.spec[0]
    axes = first if isinstance(first, tuple) else () if first is None else (first,)
    shards = prod(mesh.shape[axis] for axis in axes)
    return axes if spec.geometry.batch % shards == 0 else ()


def _sharding(spec: CallSpec, mesh: Any, name: str, batch_axes: tuple[Any, ...]) -> NamedSharding:
    sharded = batch_axes and not spec.is_parameter(name)
    return NamedSharding(mesh, PartitionSpec(batch_axes) if sharded else PartitionSpec())


def _infer(spec: CallSpec, target: Target, mesh: Any, arrays: Any, results: Any) -> Any:
    """Shardings of the results, for GSPMD, the partitioner before Shardy."""
    batch_axes = _batch_axes(spec, mesh, arrays)
    return [_sharding(spec, mesh, name, batch_axes) for name in spec.outputs]


def _rule(spec: CallSpec, target: Target, mesh: Any, inputs: Any, outputs: Any) -> str:
    """Shardy's rule, in einsum notation: all arrays but parameters share their first dimension."""
    letters = (f"d{number}" for number in range(100))

    def dimensions(name: str, rank: int) -> str:
        each = [next(letters) for _ in range(rank)]
        return " ".join(each if spec.is_parameter(name) else ["n", *each[1:]])

    def side(names: Iterable[str], shapes: Iterable[Any]) -> str:
        return ", ".join(map(dimensions, names, map(len, shapes)))

    input_names = [argument.name for argument in spec.inputs]
    left = side(input_names, spec.input_shapes())
    return f"{left} -> {side(spec.outputs, spec.output_shapes())}"


execute_sharded.def_partition(_partition, infer_sharding_from_operands=_infer, sharding_rule=_rule)
