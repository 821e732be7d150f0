"""Exchange of bfloat16 arrays between DLPack and NumPy.

NumPy's DLPack functions do not support bfloat16, so the capsules are relabelled as uint16.
"""

from __future__ import annotations

import ctypes as c
from typing import Any

import numpy as np

UNSIGNED, BFLOAT = 1, 4  # DLPack's type codes
BITS = 16

# Byte offset of the dtype in DLManagedTensor and in DLManagedTensorVersioned. Its first byte is the
# type code, its second the number of bits.
DTYPE_AT = {b"dltensor": 20, b"dltensor_versioned": 52}

_name = c.PYFUNCTYPE(c.c_char_p, c.py_object)(("PyCapsule_GetName", c.pythonapi))
_address = c.PYFUNCTYPE(c.c_void_p, c.py_object, c.c_char_p)(("PyCapsule_GetPointer", c.pythonapi))


def import_bfloat16(array: Any) -> Any:
    """View the memory of a bfloat16 array as a NumPy array, without a copy.

    Raises:
        BufferError: the dtype of the array is not bfloat16.
        TypeError: ml_dtypes is missing.
    """
    try:
        from ml_dtypes import bfloat16
    except ImportError as error:
        raise TypeError("bfloat16 needs ml_dtypes; pip install ml_dtypes") from error
    return np.from_dlpack(_Relabelled(array, BFLOAT, UNSIGNED)).view(bfloat16)


def export_bfloat16(array: Any) -> Any:
    """Make a DLPack producer that shares the memory of a bfloat16 NumPy array."""
    return _Relabelled(array.view(np.uint16), UNSIGNED, BFLOAT)


class _Relabelled:
    """A DLPack producer that replaces the type code in the capsules of a 16-bit array."""

    def __init__(self, array: Any, old: int, new: int) -> None:
        self._array, self._old, self._new = array, old, new

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()

    def __dlpack__(self, **how: Any) -> Any:
        capsule = self._array.__dlpack__(**how)
        name = _name(capsule)
        at = _address(capsule, name) + DTYPE_AT[name]
        code, bits = c.c_uint8.from_address(at), c.c_uint8.from_address(at + 1)
        if (code.value, bits.value) != (self._old, BITS):
            raise BufferError(f"numbers of kind {code.value} with {bits.value} bits")
        code.value = self._new
        return capsule
