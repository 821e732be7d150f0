"""What kernels read at once lies where they expect it: fields of a struct, rows of columns."""

from __future__ import annotations

import pytest
from cases import named
from checks import needs_compiler
from support.gpu_engine import geometry

from cudeform.arrays import DeviceArray, Operands
from cudeform.checks import GRADIENTS
from cudeform.gpu.call import ld_columns_of
from cudeform.gpu.device_api.params import Layout

pytestmark = needs_compiler


@pytest.mark.parametrize("index_bits", [32, 64])
def test_the_struct_lies_as_a_compiler_lays_it_out(index_bits: int) -> None:
    """Each field at a multiple of its own alignment, structs included."""
    launch = Layout(index_bits).launch
    index = index_bits // 8
    for name in launch.names or ():
        kind, at = launch.fields[name][:2]  # type: ignore[index]
        widest = index if kind.names == ("n", "c", "h", "w") or kind.itemsize == index else 4
        assert at % widest == 0, name
    assert launch.itemsize % index == 0


def test_rows_of_columns_are_whole_vectors() -> None:
    for name in ("torchvision, batch 33", "7 channels", "no input channels", "kernel 7x7"):
        for dtype in ("float16", "float32", "float64"):
            case = named(name).cast(dtype)
            arrays = {n: DeviceArray(0, getattr(case, n).shape, (), dtype) for n in GRADIENTS}
            leading = ld_columns_of(geometry(case), Operands(**arrays))
            assert leading * case.input.itemsize % 16 == 0
            assert leading > case.weight[0].size
