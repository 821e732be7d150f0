"""The sizes of a transposed deformable convolution, and its settings.

The transposed convolution is the gradient of a convolution with respect to its input. The input of
that convolution has the size of the transposed convolution's *output*, and its output has the size
of the transposed convolution's *input*. So its ``Geometry`` contains all sizes, with the roles of
input and output exchanged.

In two dimensions: input ``(N, C, H, W)``, weight ``(C, O/groups, KH, KW)``, offset
``(N, 2*offset_groups*KH*KW, H, W)``, mask ``(N, offset_groups*KH*KW, H, W)``, bias ``(O,)``, output
``(N, O, OH, OW)``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from numbers import Integral
from typing import Any, NamedTuple

from cudeform.arrays import Operands
from cudeform.geometry import Geometry
from cudeform.settings import AXIS_NAMES, LARGEST, Ints, PerAxis, as_ints, as_padding, plain
from cudeform.shape_rules import Shape, ShapeRules, check_rank, expect, offset_groups_of

TransposedPadding = int | Sequence[int] | Sequence[Sequence[int]]


class TransposedSettings(NamedTuple):
    """The arguments of a transposed convolution that are not arrays, unchecked."""

    stride: Ints = 1
    padding: TransposedPadding = 0
    output_padding: Ints = 0
    dilation: Ints = 1
    groups: int = 1

    def resolved(self, input: Any, weight: Any, axes: int) -> TransposedSettings:
        """The settings with arrays converted to numbers and tuples."""
        return TransposedSettings(*map(plain, self))

    def packed(self, axes: int) -> PerAxis:
        """The settings as integers in the order of the arguments, one or a pair per axis."""
        if isinstance(self.padding, str):
            raise ValueError(
                f"padding must be integers, got {self.padding!r}: the size of a transposed "
                "convolution's output does not follow from a name; write the padding of the "
                "convolution whose transpose is meant"
            )
        pads = [each for both in as_padding(self.padding, axes) for each in both]
        (groups,) = as_ints("groups", self.groups, 1, 1)
        return (
            *as_ints("stride", self.stride, 1, axes),
            *pads,
            *as_ints("output_padding", self.output_padding, 0, axes),
            *as_ints("dilation", self.dilation, 1, axes),
            groups,
        )

    @staticmethod
    def length(numbers: PerAxis, axes: int) -> int:
        """The number of integers of :meth:`packed` in front of a list."""
        return 5 * axes + 1

    @staticmethod
    def unpacked(numbers: PerAxis, axes: int) -> TransposedSettings:
        """The inverse of :meth:`packed`."""
        stride, pads, output_padding, dilation = (
            numbers[:axes],
            numbers[axes : 3 * axes],
            numbers[3 * axes : 4 * axes],
            numbers[4 * axes : 5 * axes],
        )
        padding = tuple(zip(pads[::2], pads[1::2], strict=True))
        return TransposedSettings(stride, padding, output_padding, dilation, numbers[5 * axes])

    def of_examples(self, count: int) -> TransposedSettings:
        """The settings of ``count`` calls merged into one, each with its own groups."""
        return self._replace(groups=count * self.groups)


@dataclass(frozen=True)
class TransposedGeometry:
    """The sizes of one transposed deformable convolution.

    Attributes:
        convolution: sizes of the convolution whose gradient with respect to the input this is. Its
            ``pad_end`` is reduced by the output padding, and may be negative.
    """

    convolution: Geometry

    @property
    def batch(self) -> int:
        """N."""
        return self.convolution.batch

    @property
    def axes(self) -> int:
        """Number of spatial axes: 1, 2 or 3."""
        return self.convolution.axes

    @property
    def input_shape(self) -> Shape:
        """(N, C, H, W)."""
        return self.convolution.output_shape

    @property
    def offset_shape(self) -> Shape:
        """(N, 2*offset_groups*KH*KW, H, W)."""
        return self.convolution.offset_shape

    @property
    def mask_shape(self) -> Shape:
        """(N, offset_groups*KH*KW, H, W)."""
        return self.convolution.mask_shape

    @property
    def weight_shape(self) -> Shape:
        """(C, O/groups, KH, KW)."""
        return self.convolution.weight_shape

    @property
    def bias_shape(self) -> Shape:
        """(O,)."""
        return (self.convolution.channels,)

    @property
    def output_shape(self) -> Shape:
        """(N, O, OH, OW)."""
        return self.convolution.input_shape

    def with_batch(self, batch: int) -> TransposedGeometry:
        """This call with another number of images."""
        return replace(self, convolution=self.convolution.with_batch(batch))

    def of_examples(self, count: int) -> TransposedGeometry:
        """``count`` such calls merged into one, each with its own channels and groups."""
        return replace(self, convolution=self.convolution.of_examples(count))

    @staticmethod
    def of_fields(fields: Mapping[str, Any]) -> TransposedGeometry:
        """A geometry from its fields, decoded from JSON."""
        return TransposedGeometry(Geometry.of_fields(fields["convolution"]))

    def check_grad_output(self, shape: Sequence[int]) -> None:
        """Check that a gradient of the output has the output's shape."""
        rule = ShapeRules.of(self.axes).output
        expect("grad_output", rule, self.output_shape, tuple(shape))


def transposed_geometry(
    shapes: Operands, settings: TransposedSettings, axes: int, traced: bool = False
) -> TransposedGeometry:
    """The sizes of a call, from the shapes of its arrays and its settings.

    ``groups`` is an argument, because ``O = groups * weight.shape[1]`` follows from no other array.
    ``offset_groups = offset.shape[1] // (axes*taps)`` is inferred.

    Args:
        shapes: shapes of the operands; None for an absent operand.
        settings: settings of the call.
        axes: number of spatial axes.
        traced: whether sizes may be symbols of a compiler, which cannot be hashed and cached.

    Raises:
        TypeError: a setting is not made of integers.
        ValueError: an impossible shape or size; the text has the rule, its value here and what was
            passed.
    """
    # Packing checks the settings, and gives equal settings the same form.
    checked = TransposedSettings.unpacked(settings.packed(axes), axes)
    plain_shapes = Operands(*(None if shape is None else tuple(shape) for shape in shapes))
    return (_geometry if traced else _cached_geometry)(plain_shapes, checked, axes)


def _geometry(shapes: Operands, settings: Any, axes: int) -> TransposedGeometry:
    stride, padding, output_padding, dilation, groups = settings
    rules, weight_rule = ShapeRules.of(axes, ""), _weight_rule(axes)
    check_rank("input", rules.input, shapes.input, axes)
    check_rank("weight", weight_rule, shapes.weight, axes)
    (batch, channels, *size), (rows, group_channels, *kernel) = shapes.input, shapes.weight
    for name, rule, letters, sizes in (
        ("input", rules.input, rules.size, shapes.input),
        ("weight", weight_rule, rules.kernel, shapes.weight),
    ):
        if any(each < 1 for each in sizes[2:]):
            raise ValueError(f"{name} must have shape {rule} with {letters} >= 1, got {sizes}")
    if rows != channels:
        raise ValueError(
            f"weight must have shape {weight_rule} with C = {channels}, got {shapes.weight}"
        )
    if channels % groups:
        raise ValueError(f"groups = {groups} must divide C = {channels}")
    by_axis = zip(
        AXIS_NAMES[-axes:], size, padding, output_padding, dilation, kernel, stride, strict=True
    )
    out_channels = groups * group_channels
    geometry = Geometry(
        batch=batch,
        channels=out_channels,
        size=tuple([_out_size(*of_axis) for of_axis in by_axis]),
        out_channels=channels,
        kernel=tuple(kernel),
        out=tuple(size),
        stride=stride,
        pad_begin=tuple([begin for begin, _ in padding]),
        pad_end=tuple([end - more for (_, end), more in zip(padding, output_padding, strict=True)]),
        dilation=dilation,
        groups=groups,
        offset_groups=offset_groups_of(
            out_channels, shapes.offset, prod(kernel), axes, letter="O", out=""
        ),
    )
    expect("offset", rules.offset, geometry.offset_shape, shapes.offset)
    if shapes.mask is not None:
        expect("mask", rules.mask, geometry.mask_shape, shapes.mask)
    if shapes.bias is not None:
        expect("bias", "(O,)", (out_channels,), shapes.bias)
    return TransposedGeometry(geometry)


_cached_geometry = lru_cache(maxsize=256)(_geometry)


@lru_cache
def _weight_rule(axes: int) -> str:
    return ShapeRules.of(axes).weight.replace("(O, C/groups", "(C, O/groups")


def least_out_size(
    size: int, padding: tuple[int, int], dilation: int, kernel: int, stride: int
) -> int:
    """Size of the output along an axis without output padding."""
    return (size - 1) * stride - sum(padding) + dilation * (kernel - 1) + 1


def _out_size(
    name: str,
    size: int,
    padding: tuple[int, int],
    output_padding: int,
    dilation: int,
    kernel: int,
    stride: int,
) -> int:
    if output_padding >= max(stride, dilation):
        raise ValueError(
            f"output_padding along the {name} must be less than stride = {stride} or "
            f"dilation = {dilation}, got {output_padding}"
        )
    out = least_out_size(size, padding, dilation, kernel, stride) + output_padding
    # A traced size is a symbol. A comparison would restrict it in the traced program; the call is
    # checked when it runs.
    if not isinstance(out, Integral):
        return out
    if not 1 <= out <= LARGEST - sum(padding):
        raise ValueError(
            f"output {name} = (size - 1)*stride - padding + dilation*(kernel - 1) + 1 + "
            f"output_padding must be positive and at most {LARGEST} with its padding: "
            f"({size} - 1)*{stride} - {sum(padding)} + {dilation}*({kernel} - 1) + 1 + "
            f"{output_padding} = {out}; change the padding or the stride"
        )
    return out
