"""Each kernel loads and stores every necessary byte once."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from cases import Case, build
from checks import needs_compiler
from hostcuda import HostDevice
from support.gpu_engine import backward, bytes_moved, everything, forward, geometry

from cudeform.options import Options

pytestmark = needs_compiler


@dataclass(frozen=True)
class Model:
    """Bytes of global memory that a call must move if all corners are in bounds."""

    columns: int  # of columns, without the padding of their rows
    corners: int  # four for each element of the columns
    padding: int  # 16 bytes of each row: 1 for the bias, and zeros

    @classmethod
    def of(cls, case: Case) -> Model:
        g = geometry(case)
        elements = g.batch * g.out_pixels * g.taps * g.channels
        size, rows = case.input.itemsize, g.batch * g.out_pixels * g.groups
        return cls(elements * size, 4 * elements * size, 16 * rows)


def inside(dtype: str) -> Case:
    """A case whose samples have all their corners in bounds."""
    case = build(
        "inside",
        channels=32,
        size=(10, 12),
        out_channels=4,
        stride=(2, 2),
        groups=2,
        offset_groups=2,
    )
    return replace(case, offset=np.clip(np.abs(case.offset) % 1, 0.125, 0.875)).cast(dtype)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
class TestBytes:
    """Bytes of vectors of channels, which the harness counts unless it watches for races."""

    def test_forward_reads_each_corner_and_writes_each_column_once(self, dtype: str) -> None:
        case, device = inside(dtype), HostDevice()
        forward(device, case)
        model = Model.of(case)
        assert bytes_moved(device, "deform_im2col") == (
            model.corners,
            model.columns + model.padding,
            0,
        )

    def test_backward_reads_columns_and_corners_once(self, dtype: str) -> None:
        case, device = inside(dtype), HostDevice()
        backward(device, case)
        model = Model.of(case)
        acc = max(4, case.input.itemsize) // case.input.itemsize
        assert bytes_moved(device, "deform_backward") == (
            model.columns + model.corners,
            model.columns + model.padding,
            model.corners * acc,
        )

    def test_columns_are_not_written_unless_they_are_needed(self, dtype: str) -> None:
        case, device = inside(dtype), HostDevice()
        backward(device, case, needs=("offset", "mask"))
        model = Model.of(case)
        assert bytes_moved(device, "deform_backward") == (model.columns + model.corners, 0, 0)

    def test_a_deterministic_backward_adds_nothing(self, dtype: str) -> None:
        case, device = inside(dtype), HostDevice()
        backward(device, case, Options(deterministic=True))
        model = Model.of(case)
        assert bytes_moved(device, "gather_grad_input") == (4 * model.columns, 0, 0)
        backward_bytes = (model.columns + model.corners, model.columns + model.padding, 0)
        assert bytes_moved(device, "deform_backward") == backward_bytes


def test_geometry_is_read_once_for_each_sample() -> None:
    """A device that watches for races counts all bytes, those of single numbers included."""
    case, device = inside("float32"), HostDevice(races=True)
    everything(device, case)
    model = Model.of(case)
    geometry_bytes = case.offset.nbytes + case.mask.nbytes
    assert bytes_moved(device, "deform_im2col") == (
        model.corners + geometry_bytes,
        model.columns + model.padding,
        0,
    )
    assert bytes_moved(device, "deform_backward") == (
        model.columns + model.corners + geometry_bytes,
        model.columns + model.padding + geometry_bytes,  # gradients are as large
        model.corners,
    )
    assert bytes_moved(device, "channels_first")[:2] == (case.input.nbytes,) * 2
