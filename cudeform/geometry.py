"""The sizes of a deformable convolution: how they follow from shapes, and the checks of them.

The letters of shapes are the same everywhere: input ``(N, C, H, W)``, weight
``(O, C/groups, KH, KW)``, offset ``(N, 2*offset_groups*KH*KW, OH, OW)``, mask
``(N, offset_groups*KH*KW, OH, OW)``, bias ``(O,)``, output ``(N, O, OH, OW)``. A *tap* is one
position of the kernel, ``tap = i * KW + j``.

Only shapes are read, never the contents of an array, so the same checks serve arrays on a GPU and
arrays without contents, which compilers trace.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from numbers import Integral
from typing import Any

from cudeform.settings import LARGEST, Padding, Pair, as_pair, padding_of_shapes

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Geometry:
    """The sizes of one deformable convolution; :func:`geometry_of` makes it and checks them."""

    batch: int
    channels: int
    in_h: int
    in_w: int
    out_channels: int
    kernel_h: int
    kernel_w: int
    out_h: int
    out_w: int
    stride_h: int
    stride_w: int
    pad_top: int
    pad_bottom: int
    pad_left: int
    pad_right: int
    dilation_h: int
    dilation_w: int
    groups: int
    offset_groups: int

    @property
    def taps(self) -> int:
        """Positions of the kernel, KH * KW."""
        return self.kernel_h * self.kernel_w

    @property
    def in_pixels(self) -> int:
        """Pixels of one input image, H * W."""
        return self.in_h * self.in_w

    @property
    def out_pixels(self) -> int:
        """Pixels of one output image, OH * OW."""
        return self.out_h * self.out_w

    @property
    def input_shape(self) -> Shape:
        """(N, C, H, W)."""
        return (self.batch, self.channels, self.in_h, self.in_w)

    @property
    def offset_shape(self) -> Shape:
        """(N, 2*offset_groups*KH*KW, OH, OW)."""
        return (self.batch, 2 * self.offset_groups * self.taps, self.out_h, self.out_w)

    @property
    def mask_shape(self) -> Shape:
        """(N, offset_groups*KH*KW, OH, OW)."""
        return (self.batch, self.offset_groups * self.taps, self.out_h, self.out_w)

    @property
    def weight_shape(self) -> Shape:
        """(O, C/groups, KH, KW)."""
        return (
            self.out_channels,
            self.channels // self.groups,
            self.kernel_h,
            self.kernel_w,
        )

    @property
    def output_shape(self) -> Shape:
        """(N, O, OH, OW)."""
        return (self.batch, self.out_channels, self.out_h, self.out_w)

    def check_grad_output(self, shape: Sequence[int]) -> None:
        """Check that a gradient of the output has the output's shape."""
        _expect("grad_output", "(N, O, OH, OW)", self.output_shape, tuple(shape))


def geometry_of(
    input: Sequence[int],
    offset: Sequence[int],
    weight: Sequence[int],
    bias: Sequence[int] | None = None,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    mask: Sequence[int] | None = None,
) -> Geometry:
    """Geometry of a call, from the shapes of its arrays.

    ``groups`` and ``offset_groups`` are inferred: ``groups = C // weight.shape[1]`` and
    ``offset_groups = offset.shape[1] // (2*KH*KW)``.

    Raises:
        TypeError: stride, padding or dilation are not integers.
        ValueError: an impossible shape or size; the text has the rule, its value here and what was
            passed.

    Example:
        >>> g = geometry_of((1, 4, 8, 8), (1, 18, 8, 8), (6, 4, 3, 3), padding=1)
        >>> g.output_shape, g.groups, g.offset_groups
        ((1, 6, 8, 8), 1, 1)
    """
    settings = _normal(input, weight, stride, padding, dilation)
    return _cached_geometry(*_as_tuples(input, offset, weight, bias, mask), *settings)


def uncached_geometry_of(
    input: Sequence[int],
    offset: Sequence[int],
    weight: Sequence[int],
    bias: Sequence[int] | None = None,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    mask: Sequence[int] | None = None,
) -> Geometry:
    """:func:`geometry_of` for sizes that a compiler traces: symbols have no hash for a cache."""
    settings = _normal(input, weight, stride, padding, dilation)
    return _geometry(*_as_tuples(input, offset, weight, bias, mask), *settings)


def _as_tuples(*shapes: Sequence[int] | None) -> Any:
    return [None if shape is None else tuple(shape) for shape in shapes]


def _normal(
    input: Sequence[int], weight: Sequence[int], stride: Pair, padding: Padding, dilation: Pair
) -> Any:
    pads = padding_of_shapes(padding, input, weight, stride, dilation)
    return as_pair("stride", stride, 1), pads, as_pair("dilation", dilation, 1)


def _geometry(
    input: Shape,
    offset: Shape,
    weight: Shape,
    bias: Shape | None,
    mask: Shape | None,
    stride: tuple[int, int],
    padding: tuple[tuple[int, int], tuple[int, int]],
    dilation: tuple[int, int],
) -> Geometry:
    batch, channels, in_h, in_w = _rank4("input", "(N, C, H, W)", input)
    out_channels, _, kernel_h, kernel_w = _rank4("weight", "(O, C/groups, KH, KW)", weight)
    if in_h < 1 or in_w < 1:
        raise ValueError(f"input must have shape (N, C, H, W) with H, W >= 1, got {input}")
    if kernel_h < 1 or kernel_w < 1:
        raise ValueError(
            f"weight must have shape (O, C/groups, KH, KW) with KH, KW >= 1, got {weight}"
        )
    groups = _groups(channels, weight)
    (pad_top, pad_bottom), (pad_left, pad_right) = padding
    geometry = Geometry(
        batch=batch,
        channels=channels,
        in_h=in_h,
        in_w=in_w,
        out_channels=out_channels,
        kernel_h=kernel_h,
        kernel_w=kernel_w,
        out_h=_out_size("height", in_h, padding[0], dilation[0], kernel_h, stride[0]),
        out_w=_out_size("width", in_w, padding[1], dilation[1], kernel_w, stride[1]),
        stride_h=stride[0],
        stride_w=stride[1],
        pad_top=pad_top,
        pad_bottom=pad_bottom,
        pad_left=pad_left,
        pad_right=pad_right,
        dilation_h=dilation[0],
        dilation_w=dilation[1],
        groups=groups,
        offset_groups=offset_groups_of(channels, offset, kernel_h * kernel_w),
    )
    offset_rule = "(N, 2*offset_groups*KH*KW, OH, OW)"
    _expect("offset", offset_rule, geometry.offset_shape, offset)
    if mask is not None:
        _expect("mask", "(N, offset_groups*KH*KW, OH, OW)", geometry.mask_shape, mask)
    if bias is not None:
        _expect("bias", "(O,)", (out_channels,), bias)
    return geometry


_cached_geometry = lru_cache(maxsize=256)(_geometry)


def _groups(channels: int, weight: Shape) -> int:
    out_channels, group_channels = weight[:2]
    if channels == group_channels:
        return 1
    if group_channels < 1 or channels % group_channels:
        raise ValueError(
            "weight must have shape (O, C/groups, KH, KW) where C/groups divides "
            f"C = {channels}, got {weight}"
        )
    groups = channels // group_channels
    if out_channels % groups:
        raise ValueError(
            "weight must have shape (O, C/groups, KH, KW) where groups divides O: "
            f"groups = C / weight.shape[1] = {groups}, got {weight}"
        )
    return groups


def offset_groups_of(channels: int, offset: Shape, taps: int) -> int:
    """Offset groups, inferred from the shape of the offset.

    Raises:
        ValueError: the channels of the offset are no multiple of ``2 * taps``, or the number of
            offset groups does not divide ``channels``.
    """
    _rank4("offset", "(N, 2*offset_groups*KH*KW, OH, OW)", offset)
    # divmod does not take the symbols of a compiler.
    offset_groups, rest = offset[1] // (2 * taps), offset[1] % (2 * taps)
    if offset_groups < 1 or rest:
        raise ValueError(
            "offset must have shape (N, 2*offset_groups*KH*KW, OH, OW): offset.shape[1] must be a "
            f"positive multiple of 2*KH*KW = {2 * taps} (offset_groups = 1 makes it {2 * taps}), "
            f"got {offset}"
        )
    if channels % offset_groups:
        raise ValueError(
            f"offset_groups = offset.shape[1] / (2*KH*KW) = {offset_groups} must divide "
            f"C = {channels}, got offset of shape {offset}"
        )
    return offset_groups


def _out_size(
    name: str, size: int, padding: tuple[int, int], dilation: int, kernel: int, stride: int
) -> int:
    # A size that a compiler traces is a symbol. Comparing it would bound it in the traced program,
    # and the call itself is checked when it runs.
    if isinstance(size, Integral) and size + sum(padding) > LARGEST:
        raise ValueError(
            f"input {name} plus padding must be at most {LARGEST}, got {size} + {sum(padding)}"
        )
    room = size + sum(padding) - dilation * (kernel - 1) - 1
    # Floor division: a kernel larger than the padded image gives a size below 1, not 1.
    out = room // stride + 1
    if out < 1:
        raise ValueError(
            f"output {name} = (size + padding - dilation*(kernel - 1) - 1) // stride + 1 must be "
            f"positive: ({size} + {sum(padding)} - {dilation}*({kernel} - 1) - 1) // {stride} + 1 "
            f"= {out}; enlarge the padding or the input"
        )
    return out


def _expect(name: str, rule: str, expected: Shape, got: Shape) -> None:
    if got != expected:
        raise ValueError(f"{name} must have shape {rule} = {expected}, got {got}")


def _rank4(name: str, rule: str, shape: Shape) -> tuple[int, int, int, int]:
    if len(shape) != 4:
        raise ValueError(f"{name} must have shape {rule}, got {shape}")
    first, second, third, fourth = shape
    return first, second, third, fourth
