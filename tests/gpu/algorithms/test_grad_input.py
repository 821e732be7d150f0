"""The gradient of the input: atomics of either width and the sorted gather agree."""

from __future__ import annotations

import numpy as np
import pytest
from cases import DTYPES, LAYOUTS, Case, build
from checks import assert_agrees, needs_compiler
from hostcuda import HostDevice, KernelError, Launched
from reference import reference
from support.gpu_engine import LoggingDevice, NewDevice, backward, through_columns

from cudeform.gpu import overrides
from cudeform.gpu.device_api.commands import Kernel
from cudeform.gpu.device_api.conv_params import ScanCells
from cudeform.gpu.device_api.kernel_source import Variant, kernel
from cudeform.gpu.variants import atomic_width

pytestmark = needs_compiler

WIDE = build("wide", channels=32, size=(6, 5), out_channels=6, groups=2, offset_groups=2)
DEPTHWISE = build("depthwise", channels=16, size=(6, 5), out_channels=16, groups=16)
ODD = build("odd", channels=5, size=(6, 5), out_channels=4)
CASES = [WIDE, DEPTHWISE, ODD]


# ---- width of atomics ----------------------------------------------------------------------------


@pytest.mark.parametrize("capability", [75, 80, 86, 89, 90, 100, 120])
@pytest.mark.parametrize("dtype", DTYPES)
def test_vectors_are_added_where_the_processor_supports_it(dtype: str, capability: int) -> None:
    wide = {"float16": 8, "bfloat16": 8, "float32": 4, "float64": 2}[dtype]
    supported = capability >= 90 and dtype != "float64"
    assert atomic_width(dtype, wide, capability) == (4 if supported else 1)
    assert atomic_width(dtype, 1, capability) == 1
    assert atomic_width("float64", 4, capability) == 1
    with overrides.force(scatter="scalar"):
        assert atomic_width(dtype, wide, capability) == 1
    with overrides.force(scatter="vector"):
        assert atomic_width(dtype, wide, capability) == (4 if supported else 1)


# ---- what is compiled and launched ---------------------------------------------------------------


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("forced", [None, "scalar", "vector"])
def test_the_width_of_atomics_is_compiled_in(forced: str | None, capability: int) -> None:
    device = LoggingDevice(compute_capability=capability)
    with overrides.force(scatter=forced):
        backward(device, WIDE.cast("float16"))
    width = 4 if capability == 90 and forced != "scalar" else 1
    assert f"#define ATOMIC_WIDTH {width}\n" in device.texts["deform_backward"]
    assert "#define ATOMIC_WIDTH 1\n" in device.texts["channels_last"]


def test_kernels_without_atomics_have_one_text() -> None:
    one, four = (Variant("float32", 32, 4, atomic_width=adds) for adds in (1, 4))
    assert kernel("deform_im2col", one) == kernel("deform_im2col", four)
    assert kernel("deform_double_backward", one) != kernel("deform_double_backward", four)


def test_a_vector_is_added_at_multiples_of_16_bytes_only() -> None:
    device = HostDevice()
    text = kernel("deform_backward", Variant("float32", 32, 4, atomic_width=4)).source
    at = text.index('#line 1 "backward/deform_backward.cu"')
    body = (
        "struct Toy { index_t cells; };\n"
        'extern "C" __global__ void deform_backward(acc_t* to, Toy params) {'
        "add_vector(to + params.cells, zero_vector()); }"
    )
    toy = Kernel("deform_backward", text[:at] + '#line 1 "toy.cu"\n' + body)
    array = device.put(np.zeros(8, "float32"))
    for first in (0, 4):
        device.launch(toy, 1, 1, [array.pointer], ScanCells(first).packed(32, 2))
    with pytest.raises(KernelError, match="add_global4"):
        device.launch(toy, 1, 1, [array.pointer], ScanCells(1).packed(32, 2))


# ---- all agree -----------------------------------------------------------------------------------


@pytest.mark.each_value
@pytest.mark.parametrize("name", overrides.SCATTERS)
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_all_give_the_same_gradients(
    new_device: NewDevice, case: Case, dtype: str, capability: int, name: str
) -> None:
    case = case.cast(dtype)
    sums = reference(**case.backward_arguments)
    with overrides.force(scatter=name):
        device = new_device(compute_capability=capability)
        results = backward(device, case)
    for which, array in results.items():
        roundings = 1 if which == "bias" else 2
        assert_agrees(array, sums[which], f"{which}, {name}", roundings=roundings)
    if isinstance(device, HostDevice):
        kernels = {did.kernel for did in device.log if isinstance(did, Launched)}
        assert ("gather_grad_input" in kernels) == (name == "gather")
        assert ("deform_direct_backward" in kernels) == (
            name != "gather" and case.name == "depthwise"
        )


@pytest.mark.each_value
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("skew", [0, 1])
def test_vector_atomics_with_arrays_of_any_layout(layout: str, skew: int) -> None:
    for case in CASES:
        case = case.cast("float16").laid_out(layout)
        sums = reference(**case.backward_arguments)
        results = backward(HostDevice(compute_capability=90), case, skew=skew)
        for which, array in results.items():
            assert_agrees(array, sums[which], which, roundings=1 if which == "bias" else 2)


@pytest.mark.parametrize("columns", [False, True])
def test_either_width_adds_the_same_bytes(columns: bool) -> None:
    case, added = DEPTHWISE.cast("float32"), []
    for name in ("scalar", "vector"):
        device = HostDevice(compute_capability=90)
        with overrides.force(scatter=name), through_columns(columns):
            backward(device, case)
        added.append(sum(did.added for did in device.log if isinstance(did, Launched)))
    assert added[0] == added[1] > 0
