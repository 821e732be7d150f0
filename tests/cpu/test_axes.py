"""The CPU engine in one and three dimensions agrees with the definition and with two dimensions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from cases import DTYPES, LAYOUTS, Case, build
from checks import assert_agrees, measured_peak, random_like
from reference import reference
from support.axes_cases import LINE, VOLUME
from support.cpu_engine import DEFAULT, backward, double_backward, everything, forward, jvp

from cudeform.options import Options

KINDS = ("normal", "half", "far", "nan and inf")
CASES = [
    *(build(f"line, offset {kind}", **LINE, offset=kind) for kind in KINDS),
    *(build(f"volume, offset {kind}", **VOLUME, offset=kind) for kind in KINDS),
    build("line, plain", size=(9,), channels=9, mask=False, bias=False),
    build("volume, plain", size=(3, 4, 3), channels=9, mask=False, bias=False, batch=2),
    build("line, depthwise", size=(7,), channels=5, out_channels=5, groups=5),
    build(
        "volume, depthwise",
        size=(2, 3, 4),
        kernel=(1, 2, 2),
        channels=3,
        out_channels=3,
        groups=3,
        offset_groups=3,
    ),
    build("volume of one voxel", size=(1, 1, 1), padding=((1, 1),) * 3, channels=1, batch=1),
]
SMOOTH = [
    build("smooth line", **LINE, offset="small"),
    build("smooth volume", **VOLUME, offset="small"),
]

by_name = {"ids": lambda case: case.name}


def assert_case_agrees(case: Case, options: Options = DEFAULT) -> None:
    sums = reference(**case.backward_arguments, boundary_grad=options.boundary_grad)
    results = everything(case, options)
    assert results.keys() == sums.keys()
    for name, array in results.items():
        assert_agrees(array, sums[name], f"{case.name}: {name}")


@pytest.mark.promise("right", "safe")
@pytest.mark.parametrize("case", CASES, **by_name)
def test_the_definition(case: Case) -> None:
    assert_case_agrees(case.cast("float64"))
    if "half" in case.name:
        assert_case_agrees(case.cast("float64"), Options(boundary_grad="zero"))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype != "float64"])
@pytest.mark.parametrize("case", CASES, **by_name)
def test_the_definition_in_other_dtypes(case: Case, dtype: str) -> None:
    assert_case_agrees(case.cast(dtype))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", [CASES[0], CASES[4]], **by_name)
def test_layouts(case: Case, layout: str) -> None:
    assert_same(everything(case.laid_out(layout)), everything(case))


@pytest.mark.parametrize("case", [CASES[1], CASES[5]], **by_name)
def test_broadcast_offsets_and_masks(case: Case) -> None:
    views = {
        name: np.broadcast_to(getattr(case, name)[:1, :, :1], getattr(case, name).shape)
        for name in ("offset", "mask")
    }
    copied = replace(case, **{name: view.copy() for name, view in views.items()})
    assert_same(everything(replace(case, **views)), everything(copied))


def assert_same(results: dict[str, Any], others: dict[str, Any]) -> None:
    """Compare results by name, whatever their shapes."""
    for name, array in results.items():
        np.testing.assert_allclose(
            array.ravel(), others[name].ravel(), rtol=1e-12, atol=1e-12, err_msg=name
        )


def slope(function: Callable[[Case], Any], case: Case, name: str, direction: Any) -> Any:
    """The derivative along a direction, exact for polynomials of fourth degree.

    A result is one of third degree at most in each of its arguments.
    """
    step = 2.0**-7

    def at(by: float) -> Any:
        return function(replace(case, **{name: getattr(case, name) + by * step * direction}))

    return (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * step)


def off_the_grid(case: Case) -> Case:
    """Coordinates that keep away from whole numbers, where there is a kink."""
    return replace(case, offset=np.floor(case.offset * 4) / 4 + 1 / 8)


def directions(case: Case) -> dict[str, Any]:
    """Displacements move by less than their distance from the grid."""
    found = random_like({"grad_output": case.grad_output, **case.operands})
    found["offset"] = np.clip(found["offset"], -2, 2)
    return found


@pytest.mark.promise("differentiable twice")
@pytest.mark.parametrize("case", SMOOTH, **by_name)
def test_jvp_is_the_slope_of_the_output(case: Case) -> None:
    case = off_the_grid(case)
    along = directions(case)
    for name in case.operands:
        got = jvp(case, {name: along[name]})
        expected = slope(forward, case, name, along[name])
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-10, err_msg=name)


@pytest.mark.promise("differentiable twice")
@pytest.mark.parametrize("case", SMOOTH, **by_name)
def test_double_backward_is_the_slope_of_the_gradients(case: Case) -> None:
    case = off_the_grid(case)
    along = directions(case)
    cotangents = random_like(case.operands, seed=1)

    def total(displaced: Case) -> float:
        grads = backward(displaced)
        return sum(float((cotangents[name] * grads[name]).sum()) for name in grads)

    for name, result in double_backward(case, cotangents).items():
        got = float((result * along[name]).sum())
        assert got == pytest.approx(slope(total, case, name, along[name]), rel=1e-9), name


@pytest.mark.parametrize("case", SMOOTH, **by_name)
def test_each_cotangent_alone(case: Case) -> None:
    """The parts of the double backward add up: each is left out where its cotangent is."""
    case = off_the_grid(case)
    cotangents = random_like(case.operands, seed=1)
    parts = [double_backward(case, {name: cotangents[name]}) for name in cotangents]
    for name, result in double_backward(case, cotangents).items():
        total = sum(part[name] for part in parts)
        np.testing.assert_allclose(result, total, rtol=1e-11, atol=1e-11, err_msg=name)


@pytest.mark.parametrize("rule", ["one_sided", "zero"])
@pytest.mark.parametrize("case", [CASES[1], CASES[5]], **by_name)
def test_jvp_and_backward_are_transposes_of_each_other(case: Case, rule: Any) -> None:
    # Also at whole coordinates and at -1, where the derivative is a convention.
    options, tangents = Options(boundary_grad=rule), random_like(case.operands)
    grads = backward(case, options)
    total = sum(float((tangents[name] * grads[name]).sum()) for name in grads)
    tangent = jvp(case, tangents, options)
    assert float((case.grad_output * tangent).sum()) == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_displacement_along_one_axis(axis: int) -> None:
    """The image shifts along that axis alone; the gradient is the difference of the two pixels."""
    size = (4, 5, 6)
    case = build("shifted", batch=1, channels=1, size=size, kernel=(1, 1, 1), out_channels=1)
    offset = np.zeros((1, 3, *size))
    offset[:, axis] = 1.25
    case = replace(case, offset=offset, weight=np.ones_like(case.weight), bias=None, mask=None)
    padded = np.concatenate([case.input, np.zeros_like(case.input)], axis + 2)
    low, high = (np.take(padded, np.arange(size[axis]) + by, axis + 2) for by in (1, 2))
    np.testing.assert_allclose(forward(case), 0.75 * low + 0.25 * high, rtol=1e-12)
    grad = backward(case, needs=("offset",))["offset"]
    inside = np.moveaxis(grad[:, axis : axis + 1], axis + 2, 0)[:-2]
    difference = np.moveaxis((high - low) * case.grad_output, axis + 2, 0)[:-2]
    np.testing.assert_allclose(inside, difference, rtol=1e-12)


@pytest.mark.parametrize("corner", list(product((0, 1), repeat=3)))
def test_each_corner_has_its_weight(corner: tuple[int, ...]) -> None:
    fractions = (0.25, 0.375, 0.875)
    weight = np.prod([f if high else 1 - f for f, high in zip(fractions, corner, strict=True)])
    image = np.zeros((1, 1, 4, 5, 6))
    image[(0, 0, *np.add((1, 2, 3), corner))] = 1.0
    offset = np.reshape(np.add((1, 2, 3), fractions), (1, 3, 1, 1, 1))
    ones = np.ones((1, 1, 1, 1, 1))
    case = Case("one-hot", image, offset, ones, None, None, ones, stride=(9, 9, 9))
    assert forward(case).item() == weight
    grad = backward(case, needs=("input",))["input"]
    assert grad[image == 1] == weight
    assert grad.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("sizes", [LINE, VOLUME], ids=["line", "volume"])
def test_without_displacements_it_is_a_convolution(sizes: dict[str, Any]) -> None:
    case = build("no displacement", **sizes, offset="zero", mask=False, bias=False)
    padded = np.pad(case.input, [(0, 0), (0, 0), *case.padding])
    kernel, out = case.weight.shape[2:], case.grad_output.shape[2:]
    expected = np.zeros(case.grad_output.shape)
    for tap in product(*map(range, kernel)):
        begins = [t * d for t, d in zip(tap, case.dilation, strict=True)]
        window = tuple(
            slice(begin, begin + (n - 1) * step + 1, step)
            for begin, n, step in zip(begins, out, case.stride, strict=True)
        )
        pixels = padded[(slice(None), slice(None), *window)].reshape(len(padded), 2, 3, *out)
        weight = case.weight[(..., *tap)].reshape(2, -1, 3)
        expected += np.einsum("goc,ngc...->ngo...", weight, pixels).reshape(expected.shape)
    np.testing.assert_allclose(forward(case), expected, rtol=1e-11, atol=1e-12)


def test_a_volume_of_one_slice_is_an_image() -> None:
    flat = build("flat", channels=6, groups=2, offset_groups=3, out_channels=4, stride=(2, 1))
    taps, out = 9, flat.grad_output.shape[2:]
    still = np.zeros((2, 3, taps, 1, *out))
    offset = np.concatenate([still, flat.offset.reshape(2, 3, taps, 2, *out)], axis=3)
    deep = Case(
        "deep",
        flat.input[:, :, None],
        offset.reshape(2, -1, 1, *out),
        flat.weight[:, :, None],
        flat.bias,
        flat.mask[:, :, None],
        flat.grad_output[:, :, None],
        stride=(1, 2, 1),
    )
    results = everything(deep)
    results["offset"] = results["offset"].reshape(2, 3, taps, 3, *out)[:, :, :, 1:]
    assert_same(results, everything(flat))


def test_a_line_is_an_image_of_one_row() -> None:
    line = build("line", size=(9,), channels=6, groups=2, offset_groups=3, out_channels=4)
    out = line.grad_output.shape[2:]
    still = np.zeros((2, 9, 1, *out))
    offset = np.concatenate([still, line.offset.reshape(2, 9, 1, *out)], axis=2)
    row = Case(
        "row",
        line.input[:, :, None],
        offset.reshape(2, -1, 1, *out),
        line.weight[:, :, None],
        line.bias,
        line.mask[:, :, None],
        line.grad_output[:, :, None],
    )
    expected = everything(row)
    expected["offset"] = expected["offset"].reshape(2, 9, 2, *out)[:, :, 1]
    assert_same(everything(line), expected)


@pytest.mark.promise("reproducible")
@pytest.mark.parametrize("sizes", [LINE, VOLUME], ids=["line", "volume"])
def test_bits_do_not_depend_on_the_number_of_threads(sizes: dict[str, Any]) -> None:
    size = tuple(4 * length for length in sizes["size"])
    case = build("threads", **sizes | {"size": size, "batch": 3}).cast("float64")
    one, three = (everything(case, Options(num_threads=n)) for n in (1, 3))
    for name in one:
        assert one[name].tobytes() == three[name].tobytes(), name


@pytest.mark.promise("bounded memory")
@pytest.mark.parametrize("run", [forward, backward])
def test_the_limit_holds_in_a_volume(run: Callable[..., Any]) -> None:
    case = build(
        "96 KiB of columns a position",
        batch=1,
        channels=8,
        size=(20, 20, 20),
        padding=((1, 1),) * 3,
        out_channels=4,
        mask=False,
    ).cast("float64")
    limit = 2**20
    run(case)  # compiled
    with measured_peak() as peak:
        results = run(case, Options(workspace_limit=limit, num_threads=2))
    outputs = results.values() if isinstance(results, dict) else [results]
    results_bytes = sum(array.nbytes for array in outputs) + 2 * case.input.nbytes
    assert peak.nbytes <= results_bytes + limit + 2**18
