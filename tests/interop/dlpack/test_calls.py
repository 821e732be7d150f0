"""Any array on the CPU that has DLPack is taken, and results are arrays of its library."""

import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from cases import ARRAYS, build, named
from support.dlpackcases import CASE, Array, backward, forward, from_dlpack, plain
from support.functions import AnyCase, every, functions_of

import cudeform


@pytest.mark.promise("any array")
@pytest.mark.usefixtures("elsewhere")
def test_results_are_arrays_of_the_producers_library() -> None:
    case = CASE.map(Array)
    output, grads = forward(case), backward(case)
    assert type(output) is Array
    np.testing.assert_array_equal(plain(output), forward(CASE))
    for grad, wanted in zip(grads, backward(CASE), strict=True):
        assert type(grad) is Array
        np.testing.assert_array_equal(plain(grad), wanted)


@every
@pytest.mark.usefixtures("elsewhere")
def test_every_operator(case: AnyCase) -> None:
    output = functions_of(case).forward(**case.map(Array).arguments)
    assert type(output) is Array
    np.testing.assert_array_equal(plain(output), functions_of(case).forward(**case.arguments))


@pytest.mark.usefixtures("elsewhere")
def test_absent_and_unneeded_gradients_are_none() -> None:
    case = named("no mask, no bias").map(Array)
    grads = backward(case, needs=("offset", "bias"))
    assert type(grads.offset) is Array
    assert [grads.input, grads.weight, grads.bias, grads.mask] == [None] * 4


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("layout", ["channels last", "reversed", "gapped"])
def test_strides_come_through(layout: str) -> None:
    output = forward(CASE.laid_out(layout).map(Array))
    np.testing.assert_array_equal(plain(output), forward(CASE))


@pytest.mark.usefixtures("elsewhere")
def test_the_library_need_not_hold_its_array_type_at_top_level() -> None:
    class Sub(Array):
        __module__ = "elsewhere.deep.inside"

    assert type(forward(CASE.map(Sub))) is Array


def test_from_dlpack_may_be_in_the_module_of_the_type(monkeypatch: pytest.MonkeyPatch) -> None:
    class Inner(Array):
        __module__ = "package.core"

    core = ModuleType("package.core")
    core.from_dlpack = from_dlpack  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "package", ModuleType("package"))
    monkeypatch.setitem(sys.modules, "package.core", core)
    assert type(forward(CASE.map(Inner))) is Array


def test_a_producer_with_an_array_namespace_needs_no_module() -> None:
    class Namespace:
        @staticmethod
        def from_dlpack(producer: Any) -> Any:
            return Modern(plain(producer))

    class Modern(Array):
        def __array_namespace__(self) -> Any:
            return Namespace

    output = forward(CASE.map(Modern))
    assert type(output) is Modern
    np.testing.assert_array_equal(plain(output), forward(CASE))


@pytest.mark.parametrize("imported", [True, False])
def test_a_producer_without_from_dlpack_is_refused(
    imported: bool, elsewhere: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    if imported:
        monkeypatch.delattr(elsewhere, "from_dlpack")
    else:
        monkeypatch.delitem(sys.modules, "elsewhere")
    case = CASE.map(Array)
    for call in (forward, backward):
        with pytest.raises(TypeError, match=r"results cannot go back to elsewhere: .*from_dlpack"):
            call(case)


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("error", [BufferError, RuntimeError])
def test_memory_that_cannot_be_read_is_refused(error: type[Exception]) -> None:
    class Remote(Array):
        __module__ = "elsewhere"

        def __dlpack__(self, **how: Any) -> Any:
            raise error("it lies elsewhere")

    for call in (forward, backward):
        with pytest.raises(TypeError, match=r"cannot read .* elsewhere .*it lies elsewhere"):
            call(CASE.map(Remote))


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_of_different_devices_are_refused(name: str) -> None:
    class OnDeviceOne(Array):
        __module__ = "elsewhere"

        def __dlpack_device__(self) -> Any:
            return (1, 1)

    arrays = {n: Array(getattr(CASE, n)) for n in ARRAYS} | {name: OnDeviceOne(getattr(CASE, name))}
    sizes = {"stride": CASE.stride, "padding": CASE.padding, "dilation": CASE.dilation}
    with pytest.raises(ValueError, match=r"must be on the device of input, .*got"):
        cudeform.deform_conv2d_backward(**arrays, **sizes)


@pytest.mark.usefixtures("elsewhere")
def test_the_checks_are_those_of_numpy_arrays() -> None:
    case = CASE.map(Array)
    with pytest.raises(ValueError, match="bias must have shape"):
        cudeform.deform_conv2d(**case.arguments | {"bias": Array(np.ones(99))})
    with pytest.raises(
        TypeError, match="weight must have the dtype of input, float64, got float32"
    ):
        cudeform.deform_conv2d(**case.arguments | {"weight": Array(CASE.weight.astype("f4"))})


@pytest.mark.usefixtures("elsewhere")
def test_forward_mode_and_the_second_order() -> None:
    case = CASE.map(Array)
    rng = np.random.default_rng(0)
    tangents = {n: rng.standard_normal(getattr(CASE, n).shape) for n in cudeform.Gradients._fields}
    for call, extra in (
        (cudeform.deform_conv2d_jvp, ()),
        (cudeform.deform_conv2d_double_backward, (CASE.grad_output,)),
    ):
        wanted = call(cudeform.Gradients(**tangents), *extra, **CASE.arguments)
        there = cudeform.Gradients(**{name: Array(array) for name, array in tangents.items()})
        got = call(there, *map(Array, extra), **case.arguments)
        pairs = zip(got, wanted, strict=True) if isinstance(got, tuple) else [(got, wanted)]
        for one, other in pairs:
            assert type(one) is Array
            np.testing.assert_array_equal(plain(one), other)


@pytest.mark.usefixtures("elsewhere")
def test_padding_by_name() -> None:
    case = build("same", size=(9, 5), kernel=(4, 2), padding=((3, 3), (0, 1)), dilation=(2, 1))
    arguments = case.map(Array).arguments | {"padding": "same"}
    np.testing.assert_array_equal(plain(cudeform.deform_conv2d(**arguments)), forward(case))
