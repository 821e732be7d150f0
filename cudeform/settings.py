"""Converts stride, padding and dilation from the forms that callers write to integers per axis.

Axes are in the order of :data:`AXIS_NAMES`; with fewer than three axes, the last names apply.
Padding may be a name: "valid" means no padding, "same" keeps the size of the image and needs
stride 1.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

# Coordinates are 32-bit integers, even if indices have 64 bits.
LARGEST = 2**31 - 1

AXIS_NAMES = ("depth", "height", "width")

Ints = int | Sequence[int]  # one for all axes, or one per axis
Padding = int | Sequence[int] | Sequence[Sequence[int]] | str

PerAxis = tuple[int, ...]
Pairs = tuple[tuple[int, int], ...]  # begin and end of each axis

# Phrases for error texts, by number of axes.
_ONE_AN_AXIS = {
    1: "a tuple (width,)",
    2: "a pair (vertical, horizontal)",
    3: "a triple (depth, height, width)",
}
_TWO_AN_AXIS = {
    1: "a tuple of a pair ((left, right),)",
    2: "a pair of pairs ((top, bottom), (left, right))",
    3: "a triple of pairs ((front, back), (top, bottom), (left, right))",
}
_LINES = {1: "columns", 2: "rows and columns", 3: "slices, rows and columns"}


class Settings(NamedTuple):
    """The arguments of a convolution that are not arrays, unchecked."""

    stride: Ints = 1
    padding: Padding = 0
    dilation: Ints = 1

    def resolved(self, input: Any, weight: Any, axes: int) -> Settings:
        """The settings with arrays converted to tuples and a name of padding to numbers.

        If input or weight has no ``shape``, a name is not changed; the geometry resolves it later.
        """
        if type(self.stride) is type(self.padding) is type(self.dilation) is int:
            return self  # as nearly every call
        stride, padding, dilation = plain(self.stride), plain(self.padding), plain(self.dilation)
        if isinstance(padding, str):
            in_shape, weight_shape = getattr(input, "shape", None), getattr(weight, "shape", None)
            if in_shape is not None and weight_shape is not None:
                padding = padding_of_shapes(padding, in_shape, weight_shape, stride, dilation, axes)
        return Settings(stride, padding, dilation)

    def packed(self, axes: int) -> PerAxis:
        """The settings as integers in the order of the arguments, one or a pair per axis."""
        pads = [each for both in as_padding(self.padding, axes) for each in both]
        strides, dilations = (
            as_ints(name, value, 1, axes)
            for name, value in (("stride", self.stride), ("dilation", self.dilation))
        )
        return (*strides, *pads, *dilations)

    @staticmethod
    def length(numbers: PerAxis, axes: int) -> int:
        """The number of integers of :meth:`packed` in front of a list."""
        return 4 * axes

    @staticmethod
    def unpacked(numbers: PerAxis, axes: int) -> Settings:
        """The inverse of :meth:`packed`."""
        stride, pads = numbers[:axes], numbers[axes : 3 * axes]
        padding = tuple(zip(pads[::2], pads[1::2], strict=True))
        return Settings(stride, padding, numbers[3 * axes :])

    def of_examples(self, count: int) -> Settings:
        """The settings of ``count`` calls merged into one, each with its own groups."""
        return self  # groups follow from the shapes


def padding_of_shapes(
    padding: Padding,
    input: Sequence[int],
    weight: Sequence[int],
    stride: Ints,
    dilation: Ints,
    axes: int,
) -> Pairs:
    """:func:`as_padding` for the shapes of a call."""
    if isinstance(padding, str) and not len(input) == len(weight) == axes + 2:
        return ((0, 0),) * axes  # a later check rejects such shapes with any padding
    return as_padding(padding, axes, weight[2:], stride, dilation, input[2:])


def plain(value: Any) -> Any:
    """Convert an array to a number or nested tuples; return anything else unchanged."""
    return _nested_tuple(value.tolist()) if hasattr(value, "tolist") else value


def _nested_tuple(value: Any) -> Any:
    return tuple(map(_nested_tuple, value)) if isinstance(value, list) else value


def as_ints(name: str, value: object, least: int, axes: int) -> PerAxis:
    """Convert an integer, or a sequence or array of integers, to one integer per axis.

    Args:
        name: name of the argument, for error texts.
        value: the value that the caller passed.
        least: the smallest value allowed.
        axes: number of axes.
    """
    value = plain(value)
    if not isinstance(value, Sequence) or isinstance(value, str):
        return (_integer(name, value, least),) * axes
    if len(value) != axes:
        raise ValueError(f"{name} must be an integer or {_ONE_AN_AXIS[axes]}, got {value}")
    return tuple([_integer(name, each, least) for each in value])


def _integer(name: str, value: Any, least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be made of integers, got {value!r}") from None
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    if number > LARGEST:
        raise ValueError(f"{name} must be at most {LARGEST}, got {number}")
    return number


def as_padding(
    value: object,
    axes: int,
    kernel: Sequence[int] = (),
    stride: Ints = 1,
    dilation: Ints = 1,
    size: Sequence[int] | None = None,
) -> Pairs:
    """Convert padding to (begin, end) per axis: ((top, bottom), (left, right)) for two axes.

    Args:
        value: a number, one number per axis, one pair per axis, an array of these, "valid" or
            "same".
        axes: number of axes.
        kernel, stride, dilation: sizes of the convolution, on which "same" depends.
        size: size of the image per axis, for an error text; None if unknown.
    """
    value = plain(value)
    if isinstance(value, str):
        return _named_padding(value, axes, kernel, stride, dilation, size)
    if not isinstance(value, Sequence):
        both = _integer("padding", value, 0)
        return ((both, both),) * axes
    if len(value) != axes:
        raise ValueError(f"padding must be {_padding_rule(axes)}, got {value}")
    return tuple([_begin_and_end(each) for each in value])


def _begin_and_end(value: object) -> tuple[int, int]:
    begin, end = as_ints("padding", value, 0, 2)
    return begin, end


def _padding_rule(axes: int) -> str:
    return f'an integer, {_ONE_AN_AXIS[axes]}, {_TWO_AN_AXIS[axes]}, "valid" or "same"'


def _named_padding(
    name: str,
    axes: int,
    kernel: Sequence[int],
    stride: Ints,
    dilation: Ints,
    size: Sequence[int] | None,
) -> Pairs:
    if name == "valid":
        return ((0, 0),) * axes
    if name != "same":
        raise ValueError(f"padding must be {_padding_rule(axes)}, got {name!r}")
    # A library that traces calls may not know a size yet.
    if any(each is None for each in kernel):
        raise ValueError(f'padding="same" needs a kernel of known size, got {tuple(kernel)}')
    strides = as_ints("stride", stride, 1, axes)
    dilations = as_ints("dilation", dilation, 1, axes)
    spans = [d * (k - 1) for k, d in zip(kernel, dilations, strict=True)]
    if strides == (1,) * axes:
        return _halves(spans)
    by_size = "depends on the size of the image"
    if size is not None and all(each is not None for each in size):
        last = [-(-n // s) * s - s for n, s in zip(size, strides, strict=True)]
        totals = [max(at + span + 1 - n, 0) for at, span, n in zip(last, spans, size, strict=True)]
        by_size = f"is {_halves(totals)} here"
    raise ValueError(
        f'padding="same" needs stride 1, got {strides}. Two rules are in use for other strides: '
        f"the padding of stride 1, {_halves(spans)}, or the padding for ceil(size / stride) "
        f"{_LINES[axes]} of output, as in TensorFlow and ONNX, which {by_size}. "
        "Write the one you mean"
    )


def _halves(totals: Sequence[int]) -> Pairs:
    """Split each total in two; an odd total has the larger part last, as in PyTorch and JAX."""
    return tuple([(total // 2, total - total // 2) for total in totals])
