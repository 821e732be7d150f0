"""Dtypes that DLPack has and NumPy lacks: bfloat16 is accepted, others are refused."""

import ctypes
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from cases import DTYPES
from support.dlpackcases import CASE, Array, backward, forward


@pytest.mark.usefixtures("elsewhere")
def test_unsupported_dtypes_are_refused() -> None:
    for dtype in ("int16", "uint16", "complex64"):
        with pytest.raises(TypeError, match=f"input must have a dtype among .*, got {dtype}"):
            forward(CASE.map(lambda array, d=dtype: Array(array.astype(d))))


@pytest.mark.skipif("bfloat16" not in DTYPES, reason="needs ml_dtypes")
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
def test_unknown_dtypes_are_refused(label: tuple[int, int]) -> None:
    there = CASE.map(lambda array: Labelled(array.astype(np.uint16), label))
    with pytest.raises(TypeError, match="NumPy cannot read this array of elsewhere"):
        forward(there)


class Labelled(Array):
    """An array of integers whose capsules have another type code and another number of bits."""

    __module__ = "elsewhere"

    def __init__(self, array: Any, label: tuple[int, int], *, versioned: bool = True) -> None:
        super().__init__(array)
        self._label, self._versioned = label, versioned

    def __dlpack__(self, **how: Any) -> Any:
        capsule = self._array.__dlpack__(**how if self._versioned else {})
        label_of(capsule)[:] = self._label
        return capsule


def from_bfloat16(producer: Any) -> Any:
    """from_dlpack of a library that has bfloat16; here that of ml_dtypes."""

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
    """The two bytes of a capsule that hold the type code and the number of bits."""
    python, take = ctypes.pythonapi, ctypes.PYFUNCTYPE
    name = take(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", python))(capsule)
    get = take(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
    # The tensor comes first, or after two numbers of the version, two pointers and the flags. Its
    # dtype comes after a pointer, the device and the rank.
    tensor = {b"dltensor": 0, b"dltensor_versioned": 8 + 16 + 8}[name]
    address = get(("PyCapsule_GetPointer", python))(capsule, name)
    return (ctypes.c_uint8 * 2).from_address(address + tensor + 8 + 8 + 4)
