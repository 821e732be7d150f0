"""Arrays of any strides and alignment are accepted, and copied only if kernels require it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cases import LAYOUTS, named
from checks import needs_compiler
from hostcuda import HostDevice
from support.gpu_cases import DIRECT, VECTORS, assert_all_agree, cast
from support.gpu_engine import NewDevice, everything, forward, launches

from cudeform.checks import GRADIENTS
from cudeform.options import Options


@pytest.mark.each_value
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "float64"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides(new_device: NewDevice, layout: str, dtype: str, deterministic: bool) -> None:
    for case in (VECTORS, named("torchvision, no bias"), *DIRECT[:1], *DIRECT[-1:]):
        case, options = cast(case, dtype), Options(deterministic=deterministic)
        assert_all_agree(everything(new_device(), case.laid_out(layout), options), case)


@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("skew", [1, 2, 4, 7])
def test_arrays_of_any_alignment(new_device: NewDevice, skew: int, layout: str) -> None:
    for case in (VECTORS, *DIRECT):
        case = cast(case, "float16")
        assert_all_agree(everything(new_device(), case.laid_out(layout), skew=skew), case)


def test_broadcast_arrays(new_device: NewDevice) -> None:
    case = VECTORS.cast("float32")
    thin = replace(
        case,
        input=case.input[:1],
        offset=case.offset[:1, :, :1],
        weight=case.weight[:, :1],
        bias=case.bias[:1],
        mask=case.mask[..., :1],
        grad_output=case.grad_output[:, :1],
    )
    shapes = {name: getattr(case, name).shape for name in (*GRADIENTS, "grad_output")}
    arrays = {name: np.broadcast_to(getattr(thin, name), shape) for name, shape in shapes.items()}
    broadcast = replace(case, **arrays)
    assert_all_agree(everything(new_device(), broadcast), broadcast)


def copies(device: HostDevice) -> int:
    return launches(device)["channels_last"]


@needs_compiler
class TestChannelsLast:
    """Channels-last images are read without a copy."""

    case = VECTORS.cast("float16").laid_out("channels last")

    def test_they_are_not_copied(self) -> None:
        device = HostDevice()
        assert_all_agree(everything(device, self.case), self.case)
        assert copies(device) == 0

    def test_nor_is_a_view_of_every_other_pixel(self) -> None:
        device = HostDevice()
        wide = np.repeat(self.case.input.transpose(0, 2, 3, 1), 2, axis=2)
        case = replace(self.case, input=wide[:, :, ::2].transpose(0, 3, 1, 2))
        assert_all_agree({"output": forward(device, case)}, case)
        assert copies(device) == 0

    def test_nor_are_chunks_of_rows(self) -> None:
        device = HostDevice()
        case = self.case
        results = {"output": forward(device, case, Options(workspace_limit=5_500))}
        assert launches(device)["gemm"] > len(case.input)
        assert_all_agree(results, case)
        assert copies(device) == 0

    def test_a_misaligned_image_is_copied(self) -> None:
        device = HostDevice()
        assert_all_agree({"output": forward(device, self.case, skew=1)}, self.case)
        assert copies(device) == 1

    def test_unless_channels_are_read_one_by_one(self) -> None:
        device = HostDevice()
        case = named("7 channels").cast("float16").laid_out("channels last")
        assert_all_agree({"output": forward(device, case, skew=1)}, case)
        assert copies(device) == 0

    def test_a_contiguous_image_is_copied(self) -> None:
        device = HostDevice()
        forward(device, self.case.laid_out("contiguous"))
        assert copies(device) == 1
