"""The sizes of a deformable convolution: how they follow from shapes, and the checks of them.

The letters of shapes are the same everywhere. In two dimensions: input ``(N, C, H, W)``, weight
``(O, C/groups, KH, KW)``, offset ``(N, 2*offset_groups*KH*KW, OH, OW)``, mask
``(N, offset_groups*KH*KW, OH, OW)``, bias ``(O,)``, output ``(N, O, OH, OW)``. Three dimensions
have D, KD and OD in front of H, KH and OH, one dimension has no H, KH and OH. The offset has a
channel an axis, in the order of the axes, for each tap of each offset group. A *tap* is one
position of the kernel; taps are counted row by row, ``tap = i * KW + j``.

Only shapes are read, never the contents of an array, so the same checks serve arrays on a GPU and
arrays without contents, which compilers trace.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from typing import Any

from cudeform.arrays import Operands
from cudeform.settings import (
    AXIS_NAMES,
    Ints,
    Padding,
    Pairs,
    PerAxis,
    Settings,
    as_ints,
    padding_of_shapes,
)
from cudeform.shape_rules import (
    Shape,
    ShapeRules,
    check_rank,
    expect,
    offset_groups_of,
    out_size,
)

Span = tuple[int, int]  # start and stop along an axis


@dataclass(frozen=True)
class Geometry:
    """The sizes of one deformable convolution; :func:`geometry_of` makes it and checks them.

    Tuples have one number an axis, in the order depth, height, width as far as they exist.

    Attributes:
        batch, channels, out_channels: N, C, O.
        size: of an input image.
        kernel: taps along each axis.
        out: size of an output image.
        stride, pad_begin, pad_end, dilation: as the caller chose them; in a :meth:`window` padding
            may be negative.
        groups, offset_groups: in which input channels go together.
    """

    batch: int
    channels: int
    size: PerAxis
    out_channels: int
    kernel: PerAxis
    out: PerAxis
    stride: PerAxis
    pad_begin: PerAxis
    pad_end: PerAxis
    dilation: PerAxis
    groups: int
    offset_groups: int

    @property
    def axes(self) -> int:
        """Number of spatial axes: 1, 2 or 3."""
        return len(self.size)

    @property
    def taps(self) -> int:
        """Positions of the kernel, KH * KW."""
        return prod(self.kernel)

    @property
    def in_pixels(self) -> int:
        """Pixels of one input image, H * W."""
        return prod(self.size)

    @property
    def out_pixels(self) -> int:
        """Pixels of one output image, OH * OW."""
        return prod(self.out)

    @property
    def out_rows(self) -> int:
        """Rows of one output image, all axes but the last merged: OH, OD * OH or 1."""
        return prod(self.out[:-1])

    @property
    def out_cols(self) -> int:
        """Columns of one output image, OW."""
        return self.out[-1]

    @property
    def input_shape(self) -> Shape:
        """(N, C, H, W)."""
        return (self.batch, self.channels, *self.size)

    @property
    def offset_shape(self) -> Shape:
        """(N, 2*offset_groups*KH*KW, OH, OW)."""
        return (self.batch, self.axes * self.offset_groups * self.taps, *self.out)

    @property
    def mask_shape(self) -> Shape:
        """(N, offset_groups*KH*KW, OH, OW)."""
        return (self.batch, self.offset_groups * self.taps, *self.out)

    @property
    def weight_shape(self) -> Shape:
        """(O, C/groups, KH, KW)."""
        return (self.out_channels, self.channels // self.groups, *self.kernel)

    @property
    def bias_shape(self) -> Shape:
        """(O,)."""
        return (self.out_channels,)

    @property
    def output_shape(self) -> Shape:
        """(N, O, OH, OW)."""
        return (self.batch, self.out_channels, *self.out)

    def with_batch(self, batch: int) -> Geometry:
        """The same call on another number of images."""
        return replace(self, batch=batch)

    def of_examples(self, count: int) -> Geometry:
        """``count`` such calls as one, in which each has channels and groups of its own."""
        return replace(
            self,
            channels=count * self.channels,
            out_channels=count * self.out_channels,
            groups=count * self.groups,
            offset_groups=count * self.offset_groups,
        )

    @staticmethod
    def of_fields(fields: Mapping[str, Any]) -> Geometry:
        """A geometry from its fields as JSON has them, in which tuples are lists."""
        tuples = {n: tuple(value) for n, value in fields.items() if isinstance(value, list)}
        return Geometry(**{**fields, **tuples})

    def window(self, batch: int, out: Sequence[Span], read: Sequence[Span]) -> Geometry:
        """Geometry of a call for a part of the output that gets a part of the input.

        Padding may be negative then, which no caller can ask for: it says that the part of the
        input begins behind the first tap, or ends before the last one. The sampling positions are
        the same as in the whole call; what lies outside of the part counts as outside of the image.

        Args:
            batch: images in that call.
            out: (start, stop) of the output positions along each axis.
            read: (start, stop) of the input along each axis.
        """
        size = tuple([stop - start for start, stop in read])
        out_size = tuple([stop - start for start, stop in out])
        starts = zip(self.pad_begin, self.stride, out, read, strict=True)
        pad_begin = tuple([pad + of[0] - at[0] * stride for pad, stride, at, of in starts])
        ends = zip(size, pad_begin, out_size, self.stride, self.dilation, self.kernel, strict=True)
        pad_end = tuple([(o - 1) * s + d * (k - 1) + 1 - n - p for n, p, o, s, d, k in ends])
        return replace(
            self, batch=batch, size=size, out=out_size, pad_begin=pad_begin, pad_end=pad_end
        )

    def check_grad_output(self, shape: Sequence[int]) -> None:
        """Check that a gradient of the output has the output's shape."""
        rule = ShapeRules.of(self.axes).output
        expect("grad_output", rule, self.output_shape, tuple(shape))


def geometry_of(
    input: Sequence[int],
    offset: Sequence[int],
    weight: Sequence[int],
    bias: Sequence[int] | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    mask: Sequence[int] | None = None,
    *,
    axes: int = 2,
) -> Geometry:
    """Geometry of a call in one, two or three dimensions, from the shapes of its arrays.

    ``groups`` and ``offset_groups`` are inferred: ``groups = C // weight.shape[1]`` and
    ``offset_groups = offset.shape[1] // (axes*taps)``.

    Raises:
        TypeError: stride, padding or dilation are not integers.
        ValueError: an impossible shape or size; the text has the rule, its value here and what was
            passed.

    Example:
        >>> g = geometry_of((1, 4, 8, 8), (1, 18, 8, 8), (6, 4, 3, 3), padding=1)
        >>> g.output_shape, g.groups, g.offset_groups
        ((1, 6, 8, 8), 1, 1)
    """
    settings = _normal(input, weight, stride, padding, dilation, axes)
    return _cached_geometry(*_as_tuples(input, offset, weight, bias, mask), *settings)


def convolution_geometry(
    shapes: Operands, settings: Settings, axes: int, traced: bool = False
) -> Geometry:
    """:func:`geometry_of` for the table of operators.

    Args:
        shapes: those of the operands.
        settings: those of the call.
        axes: number of spatial axes.
        traced: whether sizes may be symbols of a compiler, which have no hash for the cache.
    """
    normal = _normal(shapes.input, shapes.weight, *settings, axes)
    return (_geometry if traced else _cached_geometry)(*_as_tuples(*shapes), *normal)


def _as_tuples(*shapes: Sequence[int] | None) -> Any:
    return [None if shape is None else tuple(shape) for shape in shapes]


def _normal(
    input: Sequence[int],
    weight: Sequence[int],
    stride: Ints,
    padding: Padding,
    dilation: Ints,
    axes: int,
) -> Any:
    pads = padding_of_shapes(padding, input, weight, stride, dilation, axes)
    return as_ints("stride", stride, 1, axes), pads, as_ints("dilation", dilation, 1, axes)


def _geometry(
    input: Shape,
    offset: Shape,
    weight: Shape,
    bias: Shape | None,
    mask: Shape | None,
    stride: PerAxis,
    padding: Pairs,
    dilation: PerAxis,
) -> Geometry:
    axes = len(stride)
    rules = ShapeRules.of(axes)
    check_rank("input", rules.input, input, axes)
    check_rank("weight", rules.weight, weight, axes)
    (batch, channels, *size), (out_channels, _, *kernel) = input, weight
    for name, rule, letters, sizes in (
        ("input", rules.input, rules.size, input),
        ("weight", rules.weight, rules.kernel, weight),
    ):
        if any(each < 1 for each in sizes[2:]):
            raise ValueError(f"{name} must have shape {rule} with {letters} >= 1, got {sizes}")
    groups = _groups(channels, weight, rules)
    by_axis = zip(AXIS_NAMES[-axes:], size, padding, dilation, kernel, stride, strict=True)
    out = tuple([out_size(*of_axis) for of_axis in by_axis])
    geometry = Geometry(
        batch=batch,
        channels=channels,
        size=tuple(size),
        out_channels=out_channels,
        kernel=tuple(kernel),
        out=out,
        stride=stride,
        pad_begin=tuple([begin for begin, _ in padding]),
        pad_end=tuple([end for _, end in padding]),
        dilation=dilation,
        groups=groups,
        offset_groups=offset_groups_of(channels, offset, prod(kernel), axes),
    )
    expect("offset", rules.offset, geometry.offset_shape, offset)
    if mask is not None:
        expect("mask", rules.mask, geometry.mask_shape, mask)
    if bias is not None:
        expect("bias", "(O,)", (out_channels,), bias)
    return geometry


_cached_geometry = lru_cache(maxsize=256)(_geometry)


def _groups(channels: int, weight: Shape, rules: ShapeRules) -> int:
    out_channels, group_channels = weight[:2]
    if channels == group_channels:
        return 1
    if group_channels < 1 or channels % group_channels:
        raise ValueError(
            f"weight must have shape {rules.weight} where C/groups divides "
            f"C = {channels}, got {weight}"
        )
    groups = channels // group_channels
    if out_channels % groups:
        raise ValueError(
            f"weight must have shape {rules.weight} where groups divides O: "
            f"groups = C / weight.shape[1] = {groups}, got {weight}"
        )
    return groups
