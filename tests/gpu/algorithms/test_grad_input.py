"""How the gradient of the input is summed: the rule, that one can be forced, and that all agree."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from cases import DTYPES, LAYOUTS, Case, build
from checks import assert_agrees, needs_compiler
from hostcuda import HostDevice, KernelError, Launched
from reference import reference
from support.gpu_engine import TestDevice, backward, geometry, through_columns
from support.gpu_engine import operands as put

from cudeform import gpu
from cudeform.arrays import Gradients
from cudeform.gpu import overrides
from cudeform.gpu.algorithms import uses_gather
from cudeform.gpu.call import atomic_width
from cudeform.gpu.device_api.commands import Kernel, KernelLaunch
from cudeform.gpu.device_api.kernel_source import Variant, kernel
from cudeform.gpu.device_api.params import ScanCells
from cudeform.gpu.replay.recorder import Recorder
from cudeform.options import Options

pytestmark = needs_compiler

WIDE = build("wide", channels=32, size=(6, 5), out_channels=6, groups=2, offset_groups=2)
DEPTHWISE = build("depthwise", channels=16, size=(6, 5), out_channels=16, groups=16)
ODD = build("odd", channels=5, size=(6, 5), out_channels=4)
CASES = [WIDE, DEPTHWISE, ODD]


# ---- the rule ------------------------------------------------------------------------------------


@pytest.mark.parametrize("capability", [75, 80, 86, 89, 90, 100, 120])
@pytest.mark.parametrize("dtype", DTYPES)
def test_vectors_are_added_where_the_processor_can(dtype: str, capability: int) -> None:
    wide = {"float16": 8, "bfloat16": 8, "float32": 4, "float64": 2}[dtype]
    able = capability >= 90 and dtype != "float64"
    assert atomic_width(dtype, wide, capability) == (4 if able else 1)
    assert atomic_width(dtype, 1, capability) == 1
    assert atomic_width("float64", 4, capability) == 1
    with overrides.force(scatter="scalar"):
        assert atomic_width(dtype, wide, capability) == 1
    with overrides.force(scatter="vector"):
        assert atomic_width(dtype, wide, capability) == (4 if able else 1)


def test_deterministic_calls_gather_whatever_is_forced() -> None:
    assert not uses_gather(Options())
    assert uses_gather(Options(deterministic=True))
    for name in overrides.SCATTERS:
        with overrides.force(scatter=name):
            assert uses_gather(Options(deterministic=True))
            assert uses_gather(Options()) == (name == "gather")


@pytest.mark.parametrize("what", ["algorithm", "scatter"])
def test_a_name_that_does_not_exist_is_refused(what: str) -> None:
    force = overrides.force(**{what: "best"})
    with pytest.raises(ValueError, match=rf"{what} must be one of .*, got 'best'"), force:
        pass


def test_what_is_forced_ends_with_the_block() -> None:
    with overrides.force(scatter="scalar"):
        with overrides.force(scatter="gather", algorithm="im2col"):
            assert overrides.forced() == ("im2col", "gather")
        with overrides.force(algorithm="direct"):
            assert overrides.forced() == ("direct", "scalar")
        assert overrides.forced() == (None, "scalar")
    assert overrides.forced() == (None, None)


# ---- what is compiled and launched ---------------------------------------------------------------


def launched(case: Case, capability: int) -> dict[str, str]:
    """Text of each kernel of a backward, by name."""
    device = HostDevice(compute_capability=capability)
    recorder = Recorder(device)
    ops, grad_output = put(device, case), device.put(case.grad_output)
    grads = Gradients(**ops.present())
    gpu.backward(recorder, ops, geometry(case), Options(), grad_output, grads)
    kernels = (c.kernel for c, _ in recorder.recorded if isinstance(c, KernelLaunch))
    return {kernel.name: kernel.source for kernel in kernels}


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("forced", [None, "scalar", "vector"])
def test_the_kernel_adds_as_it_is_told(forced: str | None, capability: int) -> None:
    case = WIDE.cast("float16")
    if forced is None:
        texts = launched(case, capability)
    else:
        with overrides.force(scatter=forced):
            texts = launched(case, capability)
    adds = 4 if capability == 90 and forced != "scalar" else 1
    assert f"#define ATOMIC_WIDTH {adds}\n" in texts["deform_backward"]
    assert "#define ATOMIC_WIDTH 1\n" in texts["channels_last"]


def test_kernels_that_add_nothing_have_one_text() -> None:
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
        device.launch(toy, 1, 1, [array.pointer], ScanCells(first).packed(32))
    with pytest.raises(KernelError, match="add_global4"):
        device.launch(toy, 1, 1, [array.pointer], ScanCells(1).packed(32))


# ---- all agree -----------------------------------------------------------------------------------


@pytest.mark.each_value
@pytest.mark.parametrize("name", overrides.SCATTERS)
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_all_give_the_same_gradients(
    new_device: Callable[..., TestDevice], case: Case, dtype: str, capability: int, name: str
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
def test_vectors_of_arrays_that_lie_anyhow(layout: str, skew: int) -> None:
    for case in CASES:
        case = case.cast("float16").laid_out(layout)
        sums = reference(**case.backward_arguments)
        results = backward(HostDevice(compute_capability=90), case, skew=skew)
        for which, array in results.items():
            assert_agrees(array, sums[which], which, roundings=1 if which == "bias" else 2)


@pytest.mark.parametrize("columns", [False, True])
def test_the_same_bytes_are_added_either_way(columns: bool) -> None:
    case, added = DEPTHWISE.cast("float32"), []
    for name in ("scalar", "vector"):
        device = HostDevice(compute_capability=90)
        with overrides.force(scatter=name), through_columns(columns):
            backward(device, case)
        added.append(sum(did.added for did in device.log if isinstance(did, Launched)))
    assert added[0] == added[1] > 0


def test_im2col_is_forced_for_the_backward_too() -> None:
    device, case = HostDevice(), DEPTHWISE.cast("float32")
    with overrides.force(algorithm="im2col"):
        backward(device, case)
    kernels = {did.kernel for did in device.log if isinstance(did, Launched)}
    assert "deform_backward" in kernels
    assert "deform_direct_backward" not in kernels
