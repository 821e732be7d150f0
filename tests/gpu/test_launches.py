"""A call queues no more launches, products and fills than it needs."""

from __future__ import annotations

from collections import Counter

import pytest
from cases import build
from checks import needs_compiler
from hostcuda import HostDevice
from support.gpu_cases import COLUMNS, DEPTHWISE, least
from support.gpu_engine import LoggingDevice, backward, everything, forward, launches

from cudeform.options import Options

pytestmark = needs_compiler


def test_forward_launches() -> None:
    case, device = COLUMNS.cast("float32"), LoggingDevice()
    forward(device, case)
    assert launches(device) == {"pack_weight": 1, "channels_last": 1, "deform_im2col": 1, "gemm": 2}
    device = LoggingDevice()
    forward(device, case.laid_out("channels last"), Options(workspace_limit=18_000))
    chunks = launches(device)["deform_im2col"]
    assert chunks > 5
    assert launches(device) == {"pack_weight": 1, "deform_im2col": chunks, "gemm": chunks}
    assert device.zeroed == []


def test_an_image_in_many_chunksof_rows_is_copied_once() -> None:
    device = HostDevice()
    forward(device, COLUMNS.cast("float32"), Options(workspace_limit=18_000))
    assert launches(device)["channels_last"] == 5
    assert launches(device)["deform_im2col"] > 5


def test_one_product_for_all_images_or_all_groups() -> None:
    for batch, groups in ((7, 2), (2, 6), (1, 6), (5, 1)):
        case = build("any", channels=6, groups=groups, out_channels=30, batch=batch).cast("float32")
        device = HostDevice()
        everything(device, case)
        # Forward, and two of the backward, which take all positions at once.
        assert launches(device)["gemm"] == min(batch, groups) + 2


def test_backward_launches() -> None:
    device = LoggingDevice()
    case = COLUMNS.cast("float32")
    backward(device, case)
    assert launches(device) == {
        "pack_weight": 1,
        "channels_last": 2,  # input and gradient of the output
        "gemm": 2,
        "deform_backward": 1,
        "channels_first": 1,
        "unpack_weight": 1,
    }
    # Only what atomics add to is zeroed.
    assert device.zeroed == [case.input.nbytes]


def test_deterministic_backward_launches() -> None:
    device, case = LoggingDevice(), COLUMNS.cast("float32")
    backward(device, case, Options(deterministic=True))
    steps = ("count_cells", "scan_cells", "fill_cells", "sort_cells", "gather_grad_input")
    assert launches(device) == {
        "pack_weight": 1,
        "channels_last": 2,
        "gemm": 2,
        **dict.fromkeys(steps, 1),
        "deform_backward": 1,
        "channels_first": 1,
        "unpack_weight": 1,
    }
    # Only counters are zeroed: one for each cell, and the total.
    assert device.zeroed == [4 * (5 * 2 * 10 * 9 + 1)]


def test_launches_without_columns() -> None:
    case, device = DEPTHWISE.cast("float32"), LoggingDevice()
    forward(device, case)
    # Input and weight are copied.
    assert launches(device) == {"channels_last": 2, "deform_direct": 1}
    assert device.zeroed == []
    backward(device, case)
    assert launches(device) - Counter({"channels_last": 2, "deform_direct": 1}) == {
        "channels_last": 3,
        "deform_direct_backward": 1,
        "deform_direct_grad_weight": 1,
        "reduce_grad_weight": 1,
        "channels_first": 1,
    }
    assert device.zeroed == [case.input.nbytes]


@pytest.mark.parametrize("needs", ["offset", "weight", "bias", "mask"])
def test_nothing_is_zeroed_without_a_gradient_of_the_input(needs: str) -> None:
    device = LoggingDevice()
    backward(device, COLUMNS.cast("float32"), needs=(needs,))
    assert device.zeroed == []
    assert launches(device)["channels_first"] == 0
    products = {"offset": 1, "mask": 1, "weight": 1, "bias": 1}
    assert launches(device)["gemm"] == products[needs]


def test_zeros_are_written_once_for_each_image_however_many_chunks() -> None:
    device, case = LoggingDevice(), COLUMNS.cast("float16")
    limit = least(backward, case, Options())
    backward(device, case, Options(workspace_limit=limit))
    assert launches(device)["deform_backward"] == 5 * 9
    assert device.zeroed == [2 * case.input[0].nbytes] * 5  # float32
