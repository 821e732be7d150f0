"""Sizes in one and three dimensions; those in two are tested through ``deform_conv2d``."""

from __future__ import annotations

import re
from typing import Any

import pytest

from cudeform.geometry import Geometry, geometry_of
from cudeform.settings import as_padding

LINE: dict[str, Any] = {
    "input": (2, 4, 9),
    "offset": (2, 6, 4),
    "weight": (6, 2, 3),
    "bias": (6,),
    "stride": 2,
    "mask": (2, 6, 4),
    "axes": 1,
}
VOLUME: dict[str, Any] = {
    "input": (2, 4, 5, 6, 7),
    "offset": (2, 144, 5, 2, 4),
    "weight": (6, 2, 2, 3, 4),
    "stride": (1, 2, 1),
    "padding": ((1, 0), (0, 0), (2, 1)),
    "dilation": (1, 1, 2),
    "mask": (2, 48, 5, 2, 4),
    "axes": 3,
}


def test_one_dimension() -> None:
    assert geometry_of(**LINE) == Geometry(
        batch=2,
        channels=4,
        size=(9,),
        out_channels=6,
        kernel=(3,),
        out=(4,),
        stride=(2,),
        pad_begin=(0,),
        pad_end=(0,),
        dilation=(1,),
        groups=2,
        offset_groups=2,
    )


def test_three_dimensions() -> None:
    g = geometry_of(**VOLUME)
    assert (g.axes, g.taps, g.in_pixels, g.out_pixels) == (3, 24, 210, 40)
    assert (g.out_rows, g.out_cols) == (10, 4)
    assert (g.pad_begin, g.pad_end) == ((1, 0, 2), (0, 0, 1))
    assert (g.groups, g.offset_groups) == (2, 2)
    shapes = g.input_shape, g.offset_shape, g.weight_shape, g.mask_shape, g.output_shape
    assert shapes[:4] == tuple(VOLUME[name] for name in ("input", "offset", "weight", "mask"))
    assert shapes[4] == (2, 6, 5, 2, 4)


@pytest.mark.parametrize(
    ("call", "changed", "text"),
    [
        (LINE, {"input": (4, 9)}, "input must have shape (N, C, W), got (4, 9)"),
        (LINE, {"input": (2, 4, 0)}, "(N, C, W) with W >= 1, got (2, 4, 0)"),
        (LINE, {"weight": (6, 2, 3, 3)}, "(O, C/groups, KW), got (6, 2, 3, 3)"),
        (LINE, {"offset": (2, 7, 4)}, "positive multiple of KW = 3 (offset_groups = 1 makes it 3)"),
        (LINE, {"offset": (2, 6, 5)}, "(N, offset_groups*KW, OW) = (2, 6, 4), got (2, 6, 5)"),
        (LINE, {"stride": (1, 1)}, "stride must be an integer or a tuple (width,), got (1, 1)"),
        (LINE, {"padding": (1, 1)}, "a tuple (width,), a tuple of a pair ((left, right),)"),
        (LINE, {"weight": (6, 2, 10)}, "output width = "),
        (VOLUME, {"input": (2, 4, 6, 7)}, "input must have shape (N, C, D, H, W)"),
        (VOLUME, {"weight": (6, 2, 2, 0, 4)}, "with KD, KH, KW >= 1, got (6, 2, 2, 0, 4)"),
        (VOLUME, {"offset": (2, 48, 5, 2, 4)}, "positive multiple of 3*KD*KH*KW = 72"),
        (VOLUME, {"offset": (2, 72, 5, 3, 4)}, "(N, 3*offset_groups*KD*KH*KW, OD, OH, OW) = "),
        (VOLUME, {"mask": (2, 24, 5, 2, 4)}, "(N, offset_groups*KD*KH*KW, OD, OH, OW) = "),
        (VOLUME, {"dilation": (1, 1)}, "a triple (depth, height, width), got (1, 1)"),
        (VOLUME, {"padding": (1, 1)}, "triple of pairs ((front, back), (top, bottom), (left, "),
        (VOLUME, {"dilation": (6, 1, 1)}, "output depth = "),
        (VOLUME, {"padding": "same"}, "ceil(size / stride) slices, rows and columns of output"),
    ],
)
def test_impossible_sizes_name_the_axes(
    call: dict[str, Any], changed: dict[str, Any], text: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        geometry_of(**call | changed)


def test_a_gradient_of_another_shape() -> None:
    with pytest.raises(ValueError, match=re.escape("(N, O, OW) = (2, 6, 4), got (2, 6, 5)")):
        geometry_of(**LINE).check_grad_output((2, 6, 5))


@pytest.mark.parametrize(
    ("value", "axes", "pads"),
    [
        (2, 1, ((2, 2),)),
        ((2,), 1, ((2, 2),)),
        (((1, 2),), 1, ((1, 2),)),
        ("valid", 3, ((0, 0),) * 3),
        ((1, 2, 3), 3, ((1, 1), (2, 2), (3, 3))),
        (((0, 1), 2, (3, 0)), 3, ((0, 1), (2, 2), (3, 0))),
    ],
)
def test_padding(value: Any, axes: int, pads: Any) -> None:
    assert as_padding(value, axes) == pads


def test_padding_that_keeps_the_size() -> None:
    same = as_padding("same", 3, (2, 3, 4), dilation=(2, 1, 1))
    assert same == ((1, 1), (1, 1), (1, 2))
