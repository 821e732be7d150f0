"""Forward mode and gradients of gradients: finite differences, and the GPU engine beside."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cases import Case, build
from hostcuda import HostDevice

import cudeform
from cudeform import engine
from cudeform import gpu as gpu_engine
from cudeform.arrays import DeviceArray, DoubleGradients, Gradients, Operands, Tangents
from cudeform.geometry import geometry_of
from cudeform.options import Options

NAMES = ("input", "offset", "weight", "bias", "mask")

# Displacements on a grid whose coordinates keep away from whole numbers, where there is a kink.
CASES = [
    build("groups", channels=6, groups=2, offset_groups=3, out_channels=4, offset="small"),
    build("vectors", channels=8, offset_groups=2, out_channels=5, size=(6, 7), offset="small"),
    build("plain", channels=3, out_channels=2, mask=False, bias=False, offset="small"),
]


def off_the_grid(case: Case) -> Case:
    offset = np.floor(case.offset * 8) / 8 + 1 / 16
    return replace(case, offset=offset)


def moved(case: Case, direction: dict[str, Any], by: float) -> Case:
    return replace(case, **{n: getattr(case, n) + by * d for n, d in direction.items()})


def present(case: Case) -> dict[str, Any]:
    return {name: getattr(case, name) for name in NAMES if getattr(case, name) is not None}


def random_like(arrays: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(array.shape) for name, array in arrays.items()}


def slope(function: Any, case: Case, direction: dict[str, Any]) -> Any:
    step = 1e-5
    return (function(moved(case, direction, step)) - function(moved(case, direction, -step))) / (
        2 * step
    )


def output(case: Case) -> Any:
    return cudeform.deform_conv2d(**case.arguments)


def weighted_gradients(weights: dict[str, Any]) -> Any:
    """The number whose gradients are the double backward."""

    def total(case: Case) -> float:
        grads = cudeform.deform_conv2d_backward(**case.backward_arguments)
        return sum(float((weights[name] * getattr(grads, name)).sum()) for name in weights)

    return total


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("only", [None, *NAMES])
def test_jvp_is_the_slope_of_the_output(case: Case, only: str | None) -> None:
    case = off_the_grid(case)
    tangents = random_like({n: a for n, a in present(case).items() if only in (None, n)})
    got = cudeform.deform_conv2d_jvp(Tangents(**tangents), **case.arguments)
    np.testing.assert_allclose(got, slope(output, case, tangents), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("only", [None, *NAMES])
def test_double_backward_is_the_slope_of_the_gradients(case: Case, only: str | None) -> None:
    case = off_the_grid(case)
    weights = random_like({n: a for n, a in present(case).items() if only in (None, n)})
    results = cudeform.deform_conv2d_double_backward(
        Gradients(**weights), **case.backward_arguments
    )
    total = weighted_gradients(weights)
    for name, result in results._asdict().items():
        if result is None:
            assert name == "mask"
            assert case.mask is None
            continue
        direction = random_like({name: getattr(case, name)}, seed=1)
        expected = slope(total, case, direction)
        assert float((result * direction[name]).sum()) == pytest.approx(
            expected, rel=1e-6, abs=1e-7
        )


def test_jvp_and_backward_are_transposes_of_each_other() -> None:
    # Also at whole coordinates and at -1, where the derivative is a convention.
    case = build("edges", channels=4, out_channels=3, offset="half")
    tangents = random_like(present(case))
    for rule in ("one_sided", "zero"):
        with cudeform.options(boundary_grad=rule):
            tangent = cudeform.deform_conv2d_jvp(Tangents(**tangents), **case.arguments)
            total = weighted_gradients(tangents)(case)
        assert float((case.grad_output * tangent).sum()) == pytest.approx(total, rel=1e-12)


def test_needs_leaves_the_others_out() -> None:
    case = CASES[0]
    weights = Gradients(**random_like(present(case)))
    every = cudeform.deform_conv2d_double_backward(weights, **case.backward_arguments)
    for name in every._fields:
        some = cudeform.deform_conv2d_double_backward(
            weights, **case.backward_arguments, needs=(name,)
        )
        assert [n for n, a in some._asdict().items() if a is not None] == [name]
        np.testing.assert_allclose(getattr(some, name), getattr(every, name), rtol=1e-12)


def test_no_tangent_gives_zeros() -> None:
    case = CASES[0]
    assert not cudeform.deform_conv2d_jvp(Gradients(), **case.arguments).any()
    results = cudeform.deform_conv2d_double_backward(Gradients(), **case.backward_arguments)
    assert not any(result.any() for result in results)


def test_wrong_tangents_are_refused() -> None:
    case = CASES[2]
    with pytest.raises(TypeError, match=r"tangents must be a cudeform.Tangents, got dict"):
        cudeform.deform_conv2d_jvp({"input": case.input}, **case.arguments)
    with pytest.raises(ValueError, match="tangent of bias must be None, for bias is None"):
        cudeform.deform_conv2d_jvp(Gradients(bias=np.ones(2)), **case.arguments)
    with pytest.raises(ValueError, match=r"tangent of input must have the shape of input, .* got"):
        cudeform.deform_conv2d_jvp(Gradients(input=case.input[:, 1:]), **case.arguments)


def on_host(
    case: Case, tangents: dict[str, Any], options: Options, planned: bool = False, **device: Any
) -> Any:
    """Tangent of the output and double gradients by the GPU engine and its kernels.

    Without a plan, each piece of workspace lies between guard pages.
    """
    gpu = HostDevice(**device)
    put = {name: gpu.put(array) for name, array in present(case).items()}
    along = Tangents(**{name: gpu.put(array) for name, array in tangents.items()})
    shapes = geometry_of(
        *(getattr(case, name).shape for name in ("input", "offset", "weight")),
        None if case.bias is None else case.bias.shape,
        case.stride,
        case.padding,
        case.dilation,
        None if case.mask is None else case.mask.shape,
    )
    dtype = case.input.dtype.name
    tangent = gpu.empty(shapes.output_shape, dtype)
    if planned:
        engine.jvp(Operands(**put), shapes, options, along, tangent, gpu)
    else:
        gpu_engine.jvp(gpu, Operands(**put), shapes, options, along, tangent)
    results: dict[str, DeviceArray] = {
        name: gpu.empty(array.shape, dtype)
        for name, array in {"grad_output": case.grad_output, **present(case)}.items()
        if name != "bias"
    }
    grad_output = gpu.put(case.grad_output)
    wanted = DoubleGradients(**results)
    rest = grad_output, along, wanted
    if planned:
        engine.double_backward(Operands(**put), shapes, options, *rest, gpu)
    else:
        gpu_engine.double_backward(gpu, Operands(**put), shapes, options, *rest)
    return gpu.read(tangent), {name: gpu.read(array) for name, array in results.items()}


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("rule", ["one_sided", "zero"])
@pytest.mark.parametrize(("offset", "groups"), [("large", 2), ("half", 2), ("half", 4)])
def test_the_gpu_engine_agrees(
    offset: str, groups: int, rule: Any, dtype: str, deterministic: bool
) -> None:
    # With 4 groups, an offset group has channels of two of them.
    case = build("both", channels=8, groups=groups, offset_groups=2, out_channels=8, offset=offset)
    case = case.cast(dtype)
    tangents = {n: a.astype(dtype) for n, a in random_like(present(case)).items()}
    options = Options(boundary_grad=rule, deterministic=deterministic)
    with cudeform.options(boundary_grad=rule):
        tangent = cudeform.deform_conv2d_jvp(Tangents(**tangents), **case.arguments)
        results = cudeform.deform_conv2d_double_backward(
            Tangents(**tangents), **case.backward_arguments
        )
    got_tangent, got = on_host(case, tangents, options, multiprocessors=1)
    error = 1e-12 if dtype == "float64" else 2e-6
    for mine, theirs in [(got_tangent, tangent), *((got[n], getattr(results, n)) for n in got)]:
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=error * abs(theirs).max())


def test_an_infinite_mask_is_not_felt_outside() -> None:
    """Zeros stand for corners outside, and zero times infinity is no number."""
    case = build("outside", channels=8, out_channels=4).cast("float32")
    case.offset[...] = 1000
    case.mask[...] = np.inf
    operands = {name: array for name, array in present(case).items() if name != "weight"}
    tangents = {name: a.astype("float32") for name, a in random_like(operands).items()}
    tangent, grads = on_host(case, tangents, Options())
    assert (tangent == tangents["bias"][:, None, None]).all()
    assert (grads["grad_output"] == tangent).all()
    assert (grads["input"] == 0).all()


def test_a_lost_sample_changes_to_nan() -> None:
    case = build("lost", channels=8, out_channels=4).cast("float32")
    case.offset[:, 0, 1, 2] = np.nan
    tangents = {n: a.astype("float32") for n, a in random_like(present(case)).items()}
    del tangents["weight"]
    tangent, grads = on_host(case, tangents, Options())
    lost = np.zeros(tangent.shape, bool)
    lost[:, :, 1, 2] = True
    assert (np.isnan(tangent) == lost).all()
    assert (np.isnan(grads["grad_output"]) == lost).all()


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_plan_changes_no_bit(deterministic: bool) -> None:
    case = build("plan", channels=8, groups=2, offset_groups=2, out_channels=6).cast("float32")
    tangents = {n: a.astype("float32") for n, a in random_like(present(case)).items()}
    options = Options(deterministic=deterministic)
    some, others = (on_host(case, tangents, options, planned) for planned in (False, True))
    assert some[0].tobytes() == others[0].tobytes()
    assert {n: a.tobytes() for n, a in some[1].items()} == {
        n: a.tobytes() for n, a in others[1].items()
    }


def test_deterministic_results_do_not_depend_on_the_order_of_blocks() -> None:
    case = build("order", channels=8, out_channels=4, size=(9, 8), offset="large").cast("float32")
    tangents = {n: a.astype("float32") for n, a in random_like(present(case)).items()}
    runs = [
        on_host(case, tangents, Options(deterministic=True), seed=seed)[1]["input"].tobytes()
        for seed in range(3)
    ]
    assert runs[0] == runs[1] == runs[2]
