"""Named, deterministic calls for every engine: plain NumPy arrays, and what goes with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import lcm, prod
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from hypothesis import strategies as st
from support.needs import has

DTYPES = {name: np.dtype(name) for name in ("float16", "float32", "float64")}
if has("ml_dtypes"):
    from ml_dtypes import bfloat16

    DTYPES["bfloat16"] = np.dtype(bfloat16)
HALF_DTYPES = [name for name, dtype in DTYPES.items() if dtype.itemsize == 2]

OPERANDS = ("input", "offset", "weight", "bias", "mask")
ARRAYS = (*OPERANDS, "grad_output")


@dataclass(frozen=True, eq=False)
class Case:
    """One call of an operator, a convolution here, and a gradient of its output."""

    name: str
    input: Any
    offset: Any
    weight: Any
    bias: Any
    mask: Any
    grad_output: Any
    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1

    @property
    def operator(self) -> str:
        """Name of the function."""
        return f"deform_conv{self.axes}d"

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments that are no arrays."""
        return {name: getattr(self, name) for name in ("stride", "padding", "dilation")}

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of the function."""
        return {name: getattr(self, name) for name in OPERANDS} | self.settings

    @property
    def backward_arguments(self) -> dict[str, Any]:
        """Keyword arguments of ``deform_conv2d_backward``."""
        return {"grad_output": self.grad_output, **self.arguments}

    @property
    def axes(self) -> int:
        """Number of dimensions."""
        return len(self.input.shape) - 2

    @property
    def operands(self) -> dict[str, Any]:
        """The arrays that a call differentiates, those that are None left out."""
        present = {name: getattr(self, name) for name in OPERANDS}
        return {name: array for name, array in present.items() if array is not None}

    def map(self, function: Callable[[Any], Any]) -> Case:
        """The case with a function applied to each of its arrays."""
        present = {name: getattr(self, name) for name in ARRAYS}
        return replace(self, **{n: function(a) for n, a in present.items() if a is not None})

    def with_operands(self, arrays: dict[str, Any]) -> Case:
        """The case with other operands."""
        return replace(self, **arrays)

    def smooth(self) -> Case:
        """The case with no coordinate at a whole number, where the output has kinks."""
        return replace(self, offset=np.floor(self.offset * 8) / 8 + 1 / 16)

    @property
    def batch(self) -> int:
        """Number of images."""
        return len(self.input)

    def cast(self, dtype: str) -> Case:
        """The case in a dtype.

        Displacements become multiples of a power of two such that coordinates are exact, in float64
        or in float32: no engine can end up in the cell next to the reference's.
        """
        if dtype not in DTYPES:
            pytest.skip("needs ml_dtypes")
        step = 2.0**-30 if dtype == "float64" else 2.0**-10
        case = replace(self, offset=np.round(self.offset / step) * step)
        with np.errstate(over="ignore"):  # far displacements become infinite in float16
            return case.map(lambda array: array.astype(DTYPES[dtype]))

    def laid_out(self, layout: str) -> Case:
        """The case with the strides of all its arrays changed, but not their contents."""
        return self.map(LAYOUTS[layout])


def _gapped(array: Any) -> Any:
    wide = np.full([2 * size + 1 for size in array.shape], 77, array.dtype)
    view = wide[tuple(slice(1, 2 * size, 2) for size in array.shape)]
    view[...] = array
    return view


def _reversed(array: Any) -> Any:
    backwards = (slice(None, None, -1),) * array.ndim
    return array[backwards].copy()[backwards]


def _channels_last(array: Any) -> Any:
    return np.moveaxis(np.moveaxis(array, 1, -1).copy(), -1, 1) if array.ndim > 1 else array


LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "contiguous": np.ascontiguousarray,
    "transposed": lambda array: np.asfortranarray(array),
    "channels last": _channels_last,
    "reversed": _reversed,
    "gapped": _gapped,
}


def _displacements(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> Any:
    normal = rng.standard_normal(shape)
    if kind == "zero":
        return np.zeros(shape)
    if kind == "small":
        return 0.1 * normal
    if kind == "normal":
        return 1.5 * normal
    if kind == "large":
        return 6.0 * normal
    if kind == "whole":
        return rng.integers(-3, 4, shape).astype(float)
    if kind == "half":
        return rng.integers(-6, 7, shape) / 2
    if kind == "far":
        far = [-3e38, -1e10, -70000.0, -2500.0, 2500.0, 70000.0, 2.0**31, 2.0**63, 3e38]
        return np.where(rng.random(shape) < 0.5, normal, rng.choice(far, shape))
    bad = {"nan": [np.nan], "inf": [np.inf, -np.inf], "nan and inf": [np.nan, np.inf, -np.inf]}
    return np.where(rng.random(shape) < 0.9, normal, rng.choice(bad[kind], shape))


FINITE = ("zero", "small", "normal", "large", "whole", "half", "far")
OFFSETS = (*FINITE, "nan", "inf", "nan and inf")


def build(
    name: str,
    *,
    batch: int = 2,
    channels: int = 4,
    size: tuple[int, ...] = (6, 5),
    out_channels: int = 3,
    kernel: tuple[int, ...] | None = None,
    stride: tuple[int, ...] | None = None,
    padding: tuple[tuple[int, int], ...] | None = None,
    dilation: tuple[int, ...] | None = None,
    groups: int = 1,
    offset_groups: int = 1,
    offset: str = "normal",
    bias: bool = True,
    mask: bool = True,
) -> Case:
    """A case with values that depend on its name alone, in as many dimensions as the size has.

    By default the kernel has three taps along each axis, with stride 1 and without padding.
    """
    rng = np.random.default_rng(crc32(name.encode()))
    axes = len(size)
    kernel, stride, dilation = kernel or (3,) * axes, stride or (1,) * axes, dilation or (1,) * axes
    padding = padding or ((0, 0),) * axes
    out = tuple(
        (size[d] + sum(padding[d]) - dilation[d] * (kernel[d] - 1) - 1) // stride[d] + 1
        for d in range(axes)
    )
    taps = prod(kernel)
    return Case(
        name=name,
        input=rng.standard_normal((batch, channels, *size)),
        offset=_displacements(offset, (batch, axes * offset_groups * taps, *out), rng),
        weight=rng.standard_normal((out_channels, channels // groups, *kernel)),
        bias=rng.standard_normal(out_channels) if bias else None,
        mask=rng.standard_normal((batch, offset_groups * taps, *out)) if mask else None,
        grad_output=rng.standard_normal((batch, out_channels, *out)),
        stride=stride,
        padding=padding,
        dilation=dilation,
    )


# Nothing is symmetric here: whatever is swapped with its neighbour changes the result.
ASYMMETRIC: dict[str, Any] = {
    "channels": 6,
    "size": (5, 4),
    "out_channels": 2,
    "kernel": (3, 2),
    "stride": (2, 1),
    "padding": ((1, 1), (0, 0)),
    "dilation": (2, 1),
    "groups": 2,
    "offset_groups": 3,
}
SAME = ((1, 1), (1, 1))

CASES = [
    build("torchvision, batch 33", **ASYMMETRIC, batch=33),
    build("torchvision, batch 0", **ASYMMETRIC, batch=0),
    build("torchvision, no mask", **ASYMMETRIC, mask=False),
    build("torchvision, no bias", **ASYMMETRIC, bias=False),
    build("no mask, no bias", mask=False, bias=False),
    build("image of one pixel", size=(1, 1), padding=SAME),
    build("image of one row", size=(1, 7), padding=SAME),
    build("image of one column", size=(7, 1), padding=SAME),
    build("kernel of one tap", kernel=(1, 1)),
    build("one tap, one channel, one pixel", size=(1, 1), kernel=(1, 1), channels=1),
    build("kernel 7x7", size=(8, 9), kernel=(7, 7), channels=2, padding=((3, 3), (3, 3)), batch=1),
    build("kernel 1x3", kernel=(1, 3)),
    build("kernel 3x1", kernel=(3, 1)),
    build("depthwise", channels=5, out_channels=5, groups=5),
    build("depthwise, two filters a channel", channels=3, out_channels=6, groups=3),
    build("an offset group a channel", channels=5, offset_groups=5),
    build("depthwise, an offset group a channel", groups=4, offset_groups=4, out_channels=4),
    build("2 groups, 3 offset groups", channels=6, groups=2, offset_groups=3, out_channels=4),
    build("3 groups, 2 offset groups", channels=6, groups=3, offset_groups=2, out_channels=3),
    build("4 groups, 2 offset groups", channels=8, groups=4, offset_groups=2, out_channels=8),
    build("stride 2x3", size=(9, 11), stride=(2, 3)),
    build("stride 3x1", size=(9, 6), stride=(3, 1)),
    build("stride beyond the kernel", size=(9, 11), kernel=(2, 2), stride=(4, 5)),
    build("dilation 2x3", size=(7, 9), dilation=(2, 3)),
    build("dilation 3x1", size=(9, 5), dilation=(3, 1)),
    build("padding 2x1", padding=((2, 2), (1, 1))),
    build("padding of all four sides", padding=((0, 3), (2, 1))),
    build("padding at the end only", padding=((0, 2), (0, 1))),
    build("padding beyond the kernel", size=(2, 2), padding=((4, 4), (5, 5)), channels=2, batch=1),
    build("7 channels", channels=7),
    build("13 channels, 1 output", channels=13, out_channels=1, batch=1),
    build("32 channels", channels=32, out_channels=8, size=(4, 4), batch=1),
    build("1 channel", channels=1, padding=SAME),
    build("batch 37", batch=37, channels=2, size=(3, 3), kernel=(2, 2)),
    build("wide", size=(1, 4101), kernel=(1, 1), stride=(1, 7), batch=1, channels=2),
    build("tall", size=(4101, 1), kernel=(1, 1), stride=(7, 1), batch=1, channels=2),
    build("wide, two taps", size=(2, 3001), kernel=(1, 2), dilation=(1, 2990), channels=2),
    build("no output channels", out_channels=0),
    build("no input channels", channels=0),
    *(build(f"offset {kind}", offset=kind, padding=SAME) for kind in OFFSETS),
    *(build(f"torchvision, offset {kind}", **ASYMMETRIC, offset=kind) for kind in OFFSETS),
]  # fmt: skip


def named(name: str) -> Case:
    """The case of that name."""
    return next(case for case in CASES if case.name == name)


@st.composite
def random_cases(draw: Callable[..., Any], offsets: tuple[str, ...] = OFFSETS) -> Case:
    """Small calls with every size, group and displacement drawn on its own."""

    def pair(least: int, most: int) -> tuple[int, int]:
        return draw(st.integers(least, most)), draw(st.integers(least, most))

    def size(out: int, kernel: int, stride: int, dilation: int, padding: tuple[int, int]) -> int:
        # Some sizes leave a rest that the last window does not reach.
        rest = draw(st.integers(0, stride - 1))
        return max(1, (out - 1) * stride + dilation * (kernel - 1) + 1 + rest - sum(padding))

    kernel, stride, dilation, out = pair(1, 3), pair(1, 3), pair(1, 3), pair(1, 3)
    padding = pair(0, 2), pair(0, 2)
    groups, offset_groups = pair(1, 3)
    return build(
        f"random {draw(st.integers(0, 2**16))}",
        batch=draw(st.integers(1, 3)),
        channels=lcm(groups, offset_groups) * draw(st.integers(1, 2)),
        size=(
            size(out[0], kernel[0], stride[0], dilation[0], padding[0]),
            size(out[1], kernel[1], stride[1], dilation[1], padding[1]),
        ),
        out_channels=groups * draw(st.integers(1, 2)),
        kernel=kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        offset_groups=offset_groups,
        offset=draw(st.sampled_from(offsets)),
        bias=draw(st.booleans()),
        mask=draw(st.booleans()),
    )


def exact(case: Case) -> Case:
    """The case with small whole numbers and quarters of a pixel: sums in float32 are exact."""

    def whole(array: Any) -> Any:
        return np.clip(np.round(array), -2, 2)

    offset = case.offset
    quarters = np.where(
        abs(offset) < 1e4, np.round(4 * np.clip(np.nan_to_num(offset), -1e4, 1e4)) / 4, offset
    )
    return replace(case.map(whole), offset=quarters).cast("float32")
