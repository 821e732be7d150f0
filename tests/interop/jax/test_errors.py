"""A wrong call raises an error with a reason while JAX traces it."""

from __future__ import annotations

from importlib import reload
from typing import Any

import pytest
from cases import named
from support.jaxcpu import function_of, jax, operands

import cudeform
from cudeform.interop import jax as adapter

CASE = named("torchvision, offset half")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"weight": (2, 2, 3, 2)}, ValueError, r"^weight must have shape \(O, C/groups, KH, KW\)"),
        ({"offset": (33, 5, 2, 2)}, ValueError, r"^offset must have shape"),
        ({"mask": (33, 18, 9, 9)}, ValueError, r"^mask must have shape .*got \(33, 18, 9, 9\)"),
        ({"bias": (3,)}, ValueError, r"^bias must have shape \(O,\) = \(2,\), got \(3,\)"),
    ],
)
def test_wrong_shapes_are_refused_while_tracing(
    change: Any, error: type[Exception], message: str
) -> None:
    case = named("torchvision, batch 33")
    shapes = {name: array.shape for name, array in operands(case).items()} | change
    arrays = {name: jax.ShapeDtypeStruct(shape, "float32") for name, shape in shapes.items()}
    with pytest.raises(error, match=message):
        jax.eval_shape(function_of(case), arrays)


def test_a_wrong_gradient_or_tangent_is_refused_while_tracing() -> None:
    arrays = operands(CASE)
    sizes = {"stride": CASE.stride, "padding": CASE.padding, "dilation": CASE.dilation}
    wrong = jax.ShapeDtypeStruct((1, 2, 3, 4), "float64")
    tangents = cudeform.Tangents(mask=wrong)
    for call, message in (
        (cudeform.deform_conv2d_backward, r"^grad_output must have shape .*got \(1, 2, 3, 4\)"),
        (cudeform.deform_conv2d_jvp, r"^tangent of mask must have the shape of mask, .*got"),
    ):
        given = wrong if call is cudeform.deform_conv2d_backward else tangents
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(lambda g, a, call=call: call(g, **a, **sizes), given, arrays)


def test_wrong_dtypes_are_refused_while_tracing() -> None:
    arrays = operands(CASE)
    arrays["mask"] = arrays["mask"].astype("float32")
    with pytest.raises(
        TypeError, match=r"^mask must have the dtype of input, float64, got float32"
    ):
        jax.jit(function_of(CASE)).lower(arrays)
    with pytest.raises(TypeError, match=r"^input must have a dtype among .*, got int64"):
        jax.eval_shape(function_of(CASE), {n: a.astype("int64") for n, a in arrays.items()})


class Foreign:
    """An array of another library."""

    __module__ = "elsewhere"
    __dlpack__ = __dlpack_device__ = None


@pytest.mark.parametrize("name", ["input", "weight"])
def test_arrays_of_another_library_are_refused_with_a_remedy_for_tracers(name: str) -> None:
    named = "offset" if name == "input" else name
    message = (
        rf"^{named} must be an array of the same library as input, .*; convert the arrays of "
        r"elsewhere by jax\.numpy\.from_dlpack"
    )
    for way in (lambda call: call, jax.jit):
        call = way(lambda arrays: function_of(CASE)(arrays | {name: Foreign()}))
        with pytest.raises(TypeError, match=message):
            call(operands(CASE))


def test_a_third_library_beside_numpy_and_jax_is_refused() -> None:
    arrays = operands(CASE) | {"input": CASE.input, "weight": Foreign()}
    with pytest.raises(TypeError, match=r"^weight must be .* same library as offset, jax, got"):
        function_of(CASE)(arrays)


def test_a_jax_that_is_too_old_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "__version_info__", (0, 6, 2))
    monkeypatch.setattr(jax, "__version__", "0.6.2")
    with pytest.raises(ImportError, match=r"jax 0\.7\.2 or newer, got 0\.6\.2; pip install"):
        reload(adapter)
