"""The choice of the compile-time widths of a call: of indices, vectors and atomics."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from cudeform.arrays import DeviceArray
from cudeform.geometry import Geometry
from cudeform.gpu import overrides
from cudeform.gpu.device_api.kernel_source import Variant, widest

# Maximum number of threads of a launch. A grid-stride index can overshoot the last element by one
# grid, so 32-bit indices need that much headroom; with more elements, indices have 64 bits.
MAX_THREADS = 2**24
MAX_ELEMENTS_32 = 2**31 - 1 - MAX_THREADS

# Elements of ``red.global.add.v4.f32``, and the first compute capability that has it.
VECTOR_ADDS, VECTOR_CAPABILITY = 4, 90


def index_bits_of(g: Geometry, arrays: Sequence[DeviceArray | None], largest: int = 0) -> int:
    """Bits of an index into these arrays and into workspace of ``largest`` elements."""
    shapes = (g.input_shape, g.offset_shape, g.weight_shape, g.output_shape)
    cells = g.batch * g.offset_groups * prod(size + 1 for size in g.size)
    return index_bits_for(arrays, [*map(prod, shapes), cells, largest])


def index_bits_for(arrays: Sequence[DeviceArray | None], sizes: Sequence[int]) -> int:
    """Bits of an index into arrays of any strides, and into workspace of some sizes."""
    spans = [_span(array) for array in arrays if array is not None]
    return 32 if max(*spans, *sizes) <= MAX_ELEMENTS_32 else 64


def _span(array: DeviceArray) -> int:
    """Distance from the first to the last element, or the largest stride: kernels compute both."""
    steps = zip(array.shape, array.strides, strict=True)
    reach = sum((size - 1) * abs(stride) for size, stride in steps) + 1
    return max(reach, *map(abs, array.strides))


def vector_of(g: Geometry, dtype: str) -> int:
    """Number of channels that a thread loads at a time: 16 bytes if these divide all groups."""
    wide = widest(dtype)
    fits = g.channels // g.offset_groups % wide == 0 and g.channels // g.groups % wide == 0
    return wide if fits and g.channels else 1


def atomic_width(dtype: str, vector: int, capability: int) -> int:
    """Number of contiguous elements of one atomic addition to global memory, 4 or 1.

    Args:
        dtype: dtype of the arrays; sums are float64 for float64 and float32 for the others.
        vector: number of channels that a thread loads at a time.
        capability: compute capability, such as 90 for sm_90.
    """
    supported = capability >= VECTOR_CAPABILITY and dtype != "float64" and vector % VECTOR_ADDS == 0
    return VECTOR_ADDS if supported and overrides.forced().scatter != "scalar" else 1


def record_bytes(variant: Variant) -> int:
    """Bytes of a SampleRecord in shared memory."""
    acc, index = _number_types(variant)
    fields = [
        ("corner_weights", acc, (2**variant.axes,)),
        ("input_index", index),
        ("column_index", index),
        ("mask", acc),
        ("flags", "u4"),
        ("frac", acc, (variant.axes,)),
        ("dense_index", index),
        ("first_channel", "i4"),
    ]
    return _struct_bytes(fields)


def tangent_bytes(variant: Variant) -> int:
    """Bytes of a SampleTangent in shared memory."""
    acc, index = _number_types(variant)
    fields = [
        ("corner_weights", acc, (2**variant.axes,)),
        ("displacement", acc, (variant.axes,)),
        ("mask", acc),
        ("input_index", index),
    ]
    return _struct_bytes(fields)


def _number_types(variant: Variant) -> tuple[str, str]:
    """acc_t and index_t."""
    return f"f{variant.acc_itemsize}", f"i{variant.index_bits // 8}"


def _struct_bytes(fields: list[Any]) -> int:
    """Bytes of a struct in shared memory, a multiple of 16 because threads load 16 bytes."""
    return -(-np.dtype(fields, align=True).itemsize // 16) * 16
