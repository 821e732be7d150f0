"""Any array on the CPU that speaks DLPack goes in, and results go back as arrays of its kind."""

import ctypes
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from cases import ARRAYS, DTYPES, Case, named

import cudeform
from cudeform import engine

CASE = named("torchvision, offset half")
OPERANDS = cudeform.Gradients._fields


class Array:
    """The least that a producer must have; everything else of NumPy is hidden."""

    __module__ = "elsewhere.arrays"

    def __init__(self, array: Any) -> None:
        self._array = array
        self.shape = array.shape
        self.handed_out = 0

    def __dlpack__(self, **how: Any) -> Any:
        self.handed_out += 1
        return self._array.__dlpack__(**how)

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()


def from_dlpack(producer: Any) -> Array:
    return Array(np.from_dlpack(producer))


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The library that made the arrays, with a way back."""
    library = ModuleType("elsewhere")
    library.from_dlpack = from_dlpack  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "elsewhere", library)
    return library


def forward(case: Case) -> Any:
    return cudeform.deform_conv2d(**case.arguments)


def backward(case: Case, **more: Any) -> cudeform.Gradients:
    return cudeform.deform_conv2d_backward(**case.backward_arguments, **more)


def plain(array: Any) -> Any:
    return np.from_dlpack(array)


@pytest.mark.usefixtures("elsewhere")
def test_results_are_arrays_of_the_producers_library() -> None:
    case = CASE.map(Array)
    output, grads = forward(case), backward(case)
    assert type(output) is Array
    np.testing.assert_array_equal(plain(output), forward(CASE))
    for grad, wanted in zip(grads, backward(CASE), strict=True):
        assert type(grad) is Array
        np.testing.assert_array_equal(plain(grad), wanted)


@pytest.mark.usefixtures("elsewhere")
def test_what_is_missing_or_not_needed_stays_none() -> None:
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


def test_the_way_back_may_be_in_the_module_of_the_type(monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_a_producer_with_no_way_back_is_refused(
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
    moves = {n: rng.standard_normal(getattr(CASE, n).shape) for n in cudeform.Gradients._fields}
    for call, extra in (
        (cudeform.deform_conv2d_jvp, ()),
        (cudeform.deform_conv2d_double_backward, (CASE.grad_output,)),
    ):
        wanted = call(cudeform.Gradients(**moves), *extra, **CASE.arguments)
        there = cudeform.Gradients(**{name: Array(array) for name, array in moves.items()})
        got = call(there, *map(Array, extra), **case.arguments)
        pairs = zip(got, wanted, strict=True) if isinstance(got, tuple) else [(got, wanted)]
        for one, other in pairs:
            assert type(one) is Array
            np.testing.assert_array_equal(plain(one), other)


@pytest.mark.usefixtures("elsewhere")
def test_each_array_is_borrowed_once_a_call() -> None:
    case = CASE.map(Array)
    backward(case)
    assert [getattr(case, name).handed_out for name in ARRAYS] == [1] * len(ARRAYS)


@pytest.mark.usefixtures("elsewhere")
def test_the_engine_sees_the_producers_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASE.map(Array)
    seen = watch_pointers(monkeypatch)
    output = forward(case)
    wanted = {name: getattr(CASE, name).ctypes.data for name in OPERANDS}
    assert seen == wanted | {"output": plain(output).ctypes.data}


@pytest.mark.usefixtures("elsewhere")
def test_memory_that_nobody_may_write_is_read() -> None:
    def locked(array: Any) -> Array:
        array = array.copy()
        array.flags.writeable = False
        return Array(array)

    np.testing.assert_array_equal(plain(forward(CASE.map(locked))), forward(CASE))


@pytest.mark.usefixtures("elsewhere")
def test_memory_may_begin_at_an_odd_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def moved(array: Any) -> Array:
        view = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
        view[...] = array
        return Array(view)

    wanted = forward(CASE)
    seen = watch_pointers(monkeypatch)
    np.testing.assert_array_equal(plain(forward(CASE.map(moved))), wanted)
    assert seen["input"] % 8 == 1


@pytest.mark.usefixtures("elsewhere")
def test_a_producer_that_does_not_lend_is_asked_for_a_copy() -> None:
    class Careful(Array):
        __module__ = "elsewhere"

        def __dlpack__(self, *, copy: bool | None = None, **how: Any) -> Any:
            if not copy:
                raise BufferError("not without a copy")
            return super().__dlpack__(copy=True, **how)

    np.testing.assert_array_equal(plain(forward(CASE.map(Careful))), forward(CASE))


@pytest.mark.usefixtures("elsewhere")
def test_dtypes_that_no_engine_has_are_refused() -> None:
    for dtype in ("int16", "uint16", "complex64"):
        with pytest.raises(TypeError, match=f"input must have a dtype among .*, got {dtype}"):
            forward(CASE.map(lambda array, d=dtype: Array(array.astype(d))))


@pytest.mark.parametrize("versioned", [True, False])
def test_bfloat16(versioned: bool, elsewhere: ModuleType) -> None:
    elsewhere.from_dlpack = from_bfloat16  # type: ignore[attr-defined]
    case = CASE.cast("bfloat16")
    there = case.map(lambda array: Labelled(array.view(np.uint16), (4, 16), versioned=versioned))
    output, grads = forward(there), backward(there)
    assert [array.dtype for array in (output, *grads)] == [case.input.dtype] * 6
    np.testing.assert_array_equal(output, forward(case))
    for grad, wanted in zip(grads, backward(case), strict=True):
        np.testing.assert_array_equal(grad, wanted)


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("label", [(4, 8), (10, 8), (12, 16)])
def test_numbers_that_nobody_knows_are_refused(label: tuple[int, int]) -> None:
    there = CASE.map(lambda array: Labelled(array.astype(np.uint16), label))
    with pytest.raises(TypeError, match="NumPy cannot read this array of elsewhere"):
        forward(there)


class Labelled(Array):
    """An array of integers that says it holds numbers of a kind and a size that NumPy lacks."""

    __module__ = "elsewhere"

    def __init__(self, array: Any, label: tuple[int, int], *, versioned: bool = True) -> None:
        super().__init__(array)
        self._label, self._versioned = label, versioned

    def __dlpack__(self, **how: Any) -> Any:
        capsule = self._array.__dlpack__(**how if self._versioned else {})
        label_of(capsule)[:] = self._label
        return capsule


def from_bfloat16(producer: Any) -> Any:
    """What a library that knows bfloat16 makes of it; here an array of ml_dtypes."""

    class AsIntegers(Array):
        def __dlpack__(self, **how: Any) -> Any:
            capsule = producer.__dlpack__(**how)
            assert list(label_of(capsule)) == [4, 16]
            label_of(capsule)[:] = [1, 16]
            return capsule

        def __dlpack_device__(self) -> Any:
            return producer.__dlpack_device__()

    return np.from_dlpack(AsIntegers(np.empty(0))).view(DTYPES["bfloat16"])


def label_of(capsule: Any) -> Any:
    """The two bytes of a capsule that say which kind of numbers, of how many bits, it holds."""
    python, take = ctypes.pythonapi, ctypes.PYFUNCTYPE
    name = take(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", python))(capsule)
    get = take(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
    # The tensor comes first, or behind two numbers of the version, two pointers and the flags; its
    # dtype is behind a pointer, the device and the rank.
    tensor = {b"dltensor": 0, b"dltensor_versioned": 8 + 16 + 8}[name]
    address = get(("PyCapsule_GetPointer", python))(capsule, name)
    return (ctypes.c_uint8 * 2).from_address(address + tensor + 8 + 8 + 4)


def watch_pointers(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Addresses of what the next forward of the engine reads and writes, by name."""
    seen: dict[str, int] = {}
    run = engine.forward

    def watched(operands: Any, geometry: Any, options: Any, output: Any) -> None:
        seen.update({name: array.ctypes.data for name, array in operands.present().items()})
        seen["output"] = output.ctypes.data
        run(operands, geometry, options, output)

    monkeypatch.setattr(engine, "forward", watched)
    return seen
