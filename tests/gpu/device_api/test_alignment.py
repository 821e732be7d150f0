"""Alignment for loads of 16 bytes: fields of structs, rows of columns."""

from __future__ import annotations

from typing import Any

import pytest
from cases import named
from checks import needs_compiler
from support.gpu_engine import geometry

from cudeform.arrays import DeviceArray, Operands
from cudeform.checks import GRADIENTS
from cudeform.gpu.call import ld_columns_of
from cudeform.gpu.device_api.params import PARAMS
from cudeform.gpu.device_api.structs import struct_dtype

pytestmark = needs_compiler


def check_alignment(struct: Any) -> int:
    """The alignment of a dtype, after a check that all its fields have theirs."""
    if struct.subdtype is not None:
        return check_alignment(struct.base)
    if struct.names is None:
        return int(struct.itemsize)
    alignments = []
    for name in struct.names:
        kind, at = struct.fields[name][:2]
        alignments.append(check_alignment(kind))
        assert at % alignments[-1] == 0, name
    assert struct.itemsize % max(alignments) == 0
    return max(alignments)


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("index_bits", [32, 64])
def test_structs_lie_as_a_compiler_lays_them_out(index_bits: int, axes: int) -> None:
    """Each field at a multiple of its own alignment, structs included."""
    for struct in PARAMS.values():
        check_alignment(struct_dtype(struct, index_bits, axes))


def test_rows_of_columns_are_whole_vectors() -> None:
    for name in ("torchvision, batch 33", "7 channels", "no input channels", "kernel 7x7"):
        for dtype in ("float16", "float32", "float64"):
            case = named(name).cast(dtype)
            arrays = {n: DeviceArray(0, getattr(case, n).shape, (), dtype) for n in GRADIENTS}
            leading = ld_columns_of(geometry(case), Operands(**arrays))
            assert leading * case.input.itemsize % 16 == 0
            assert leading > case.weight[0].size
