"""Arrays sharded over eight devices: each device computes its own images, without a copy."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from cases import build
from support import jaxcpu
from support.jaxcpu import function_of, jax, loss_of, operands

from cudeform import engine

from jax.sharding import AxisType, NamedSharding, PartitionSpec  # isort: skip

CASE = build("sharded", batch=16, channels=4, groups=2, out_channels=2, offset_groups=2)
PARAMETERS = ("weight", "bias")


@pytest.fixture(autouse=True)
def _needs_devices() -> None:
    if jax.device_count() < 8:
        pytest.skip("JAX was imported before its tests could ask for eight devices")


def mesh_of(*sizes: int, kind: Any = None) -> Any:
    names = ("images", "rest")[: len(sizes)]
    return jax.make_mesh(sizes, names, axis_types=(kind or AxisType.Auto,) * len(sizes))


def specs(arrays: Any, axes: Any = "images") -> Any:
    return {n: PartitionSpec() if n in PARAMETERS else PartitionSpec(axes) for n in arrays}


def spread(arrays: Any, mesh: Any, axes: Any = "images") -> Any:
    placed = specs(arrays, axes)
    return {n: jax.device_put(a, NamedSharding(mesh, placed[n])) for n, a in arrays.items()}


@pytest.mark.parametrize("bridge", ["buffer", "ffi"])
@pytest.mark.parametrize("case", [CASE, build("sharded, bare", batch=8, mask=False, bias=False)])
def test_jit_keeps_images_where_they_are(case: Any, bridge: str) -> None:
    arrays = operands(case)
    call = jax.jit(function_of(case))
    there = spread(arrays, mesh_of(8))
    with jaxcpu.bridge(bridge):
        compiled = call.lower(there).compile()
    assert "all-gather" not in compiled.as_text()
    output = compiled(there)
    assert output.sharding.spec[0] == "images"
    jaxcpu.assert_close(np.asarray(output), np.asarray(call(arrays)))


def test_the_partitioner_that_came_before_shardy() -> None:
    before = jax.config.jax_use_shardy_partitioner
    jax.config.update("jax_use_shardy_partitioner", False)
    try:
        test_jit_keeps_images_where_they_are(CASE, "buffer")
    finally:
        jax.config.update("jax_use_shardy_partitioner", before)


def test_a_batch_that_is_no_multiple_of_the_devices() -> None:
    arrays = operands(CASE)

    def part(arrays: Any) -> Any:
        some = {n: a if n in PARAMETERS else a[:12] for n, a in arrays.items()}
        return function_of(CASE)(some)

    mesh = mesh_of(8)
    whole = NamedSharding(mesh, PartitionSpec())
    got = jax.jit(part, out_shardings=whole)(spread(arrays, mesh))
    jaxcpu.assert_close(np.asarray(got), np.asarray(part(arrays)))


def test_a_device_gets_only_its_images(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    forward = engine.forward

    def watched(given: Any, geometry: Any, *rest: Any) -> None:
        seen.append((geometry.batch, given.input.shape[0], given.mask.shape[0]))
        forward(given, geometry, *rest)

    monkeypatch.setattr(engine, "forward", watched)
    jax.jit(function_of(CASE))(spread(operands(CASE), mesh_of(8))).block_until_ready()
    assert seen == [(2, 2, 2)] * 8


@pytest.mark.parametrize("order", [1, 2])
def test_gradients_under_jit(order: int) -> None:
    arrays = operands(CASE)
    gradient = jax.grad(loss_of(CASE))
    if order == 2:
        gradient = jax.grad(
            lambda a: sum((g**2).sum() for g in jax.grad(loss_of(CASE))(a).values())
        )
    there = spread(arrays, mesh_of(8))
    compiled = jax.jit(gradient).lower(there).compile()
    text = compiled.as_text()
    assert "all-gather" not in text
    assert "all-reduce" in text  # of the parameters' gradients
    grads = compiled(there)
    for name in ("input", "offset", "mask"):
        assert grads[name].sharding.spec[0] == "images"
    jaxcpu.assert_close(jax.tree.map(np.asarray, grads), jax.tree.map(np.asarray, gradient(arrays)))


def test_images_over_two_axes_of_a_mesh() -> None:
    arrays = operands(CASE)
    there = spread(arrays, mesh_of(4, 2), ("images", "rest"))
    compiled = jax.jit(jax.grad(loss_of(CASE))).lower(there).compile()
    assert "all-gather" not in compiled.as_text()
    wanted = jax.grad(loss_of(CASE))(arrays)
    jaxcpu.assert_close(jax.tree.map(np.asarray, compiled(there)), jax.tree.map(np.asarray, wanted))


@pytest.mark.parametrize("batch", [16, 3])
def test_arrays_spread_by_channel_are_gathered(batch: int) -> None:
    case = build("rows", batch=batch, channels=8, out_channels=8)
    arrays = operands(case)
    mesh = mesh_of(8)
    by_channel = NamedSharding(mesh, PartitionSpec(None, "images"))
    there = spread(arrays, mesh, None) | {"input": jax.device_put(arrays["input"], by_channel)}
    output = jax.jit(function_of(case))(there)
    jaxcpu.assert_close(np.asarray(output), np.asarray(function_of(case)(arrays)))


@pytest.mark.parametrize("check", [True, False])
def test_shard_map(check: bool) -> None:
    arrays = operands(CASE)
    mesh = mesh_of(8)
    call = partial(jax.shard_map, mesh=mesh, in_specs=(specs(arrays),), check_vma=check)
    there = spread(arrays, mesh)
    output = jax.jit(call(function_of(CASE), out_specs=PartitionSpec("images")))
    compiled = output.lower(there).compile()
    assert "all-gather" not in compiled.as_text()
    jaxcpu.assert_close(np.asarray(compiled(there)), np.asarray(function_of(CASE)(arrays)))


def test_gradients_through_shard_map() -> None:
    # The transpose of the parameters' broadcast sums their gradients over the devices.
    arrays = operands(CASE)
    mesh = mesh_of(8)

    def local(arrays: Any) -> Any:
        return jax.lax.psum(loss_of(CASE)(arrays), "images")

    loss = jax.shard_map(local, mesh=mesh, in_specs=(specs(arrays),), out_specs=PartitionSpec())
    for gradient, wanted in (
        (jax.grad(loss), jax.grad(loss_of(CASE))),
        (_penalty(loss), _penalty(loss_of(CASE))),
    ):
        got = jax.jit(gradient)(spread(arrays, mesh))
        jaxcpu.assert_close(jax.tree.map(np.asarray, got), jax.tree.map(np.asarray, wanted(arrays)))


def _penalty(loss: Any) -> Any:
    return jax.grad(lambda a: sum((g**2).sum() for g in jax.grad(loss)(a).values()))


def test_a_training_step_on_explicit_axes() -> None:
    arrays = operands(CASE)
    mesh = mesh_of(8, kind=AxisType.Explicit)
    with jax.set_mesh(mesh):
        there = spread(arrays, mesh)
        output = jax.jit(function_of(CASE))(there)
        assert output.sharding.spec[0] == "images"
    jaxcpu.assert_close(np.asarray(output), np.asarray(function_of(CASE)(arrays)))


def test_vmap_of_spread_images() -> None:
    arrays = operands(CASE)
    there = spread(arrays, mesh_of(8))
    axes = {name: None if name in PARAMETERS else 0 for name in arrays}

    def single(arrays: Any) -> Any:
        one = {n: a if n in PARAMETERS else a[None] for n, a in arrays.items()}
        return function_of(CASE)(one)[0]

    compiled = jax.jit(jax.vmap(single, (axes,))).lower(there).compile()
    assert "all-gather" not in compiled.as_text()
    jaxcpu.assert_close(np.asarray(compiled(there)), np.asarray(function_of(CASE)(arrays)))
