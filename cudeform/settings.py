"""Stride, padding and dilation: the forms that callers write, as integers for each axis.

Axes are in the order of :data:`AXIS_NAMES`, the last ones where there are fewer than three. Padding
may have a name. "valid" is none; "same" keeps the size of the image and needs stride 1.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

# Coordinates are 32-bit integers, whatever the width of an index.
LARGEST = 2**31 - 1

AXIS_NAMES = ("depth", "height", "width")

Ints = int | Sequence[int]  # one for all axes, or one an axis
Pair = Ints  # of two axes
Padding = int | Sequence[int] | Sequence[Sequence[int]] | str

PerAxis = tuple[int, ...]
Pairs = tuple[tuple[int, int], ...]  # begin and end of each axis

# By number of axes, for error texts.
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
    """The arguments of a call that are no arrays, unchecked, and its number of dimensions."""

    stride: Ints = 1
    padding: Padding = 0
    dilation: Ints = 1
    axes: int = 2


def settings_of(
    input: Any, weight: Any, stride: Any, padding: Any, dilation: Any, axes: int = 2
) -> Settings:
    """Settings of a call, with arrays as tuples and names of padding as numbers.

    A name is kept where an array has no ``shape``; the geometry resolves it.
    """
    stride, padding, dilation = plain(stride), plain(padding), plain(dilation)
    if isinstance(padding, str):
        in_shape, weight_shape = getattr(input, "shape", None), getattr(weight, "shape", None)
        if in_shape is not None and weight_shape is not None:
            padding = padding_of_shapes(padding, in_shape, weight_shape, stride, dilation, axes)
    return Settings(stride, padding, dilation, axes)


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
        return ((0, 0),) * axes  # such shapes are refused, whatever the padding
    return as_padding(padding, axes, weight[2:], stride, dilation, input[2:])


def plain(value: Any) -> Any:
    """The numbers of an array as a number or nested tuples; anything else as it is."""
    return _nested_tuple(value.tolist()) if hasattr(value, "tolist") else value


def _nested_tuple(value: Any) -> Any:
    return tuple(map(_nested_tuple, value)) if isinstance(value, list) else value


def as_ints(name: str, value: object, least: int, axes: int) -> PerAxis:
    """An integer for each axis, from one integer, a sequence, or an array of these.

    Args:
        name: of the argument, for error texts.
        value: what the caller passed.
        least: the smallest value allowed.
        axes: how many axes there are.
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
    """Padding as (begin, end) for each axis: ((top, bottom), (left, right)) for two.

    Args:
        value: a number, one an axis, a pair an axis, an array of these, "valid" or "same".
        axes: how many axes there are.
        kernel, stride, dilation: of the convolution; "same" depends on them.
        size: of the image, one an axis, where it is known, for an error text.
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
    strides = as_ints("stride", stride, 1, axes)
    dilations = as_ints("dilation", dilation, 1, axes)
    spans = [d * (k - 1) for k, d in zip(kernel, dilations, strict=True)]
    if strides == (1,) * axes:
        return _halves(spans)
    by_size = "depends on the size of the image"
    if size is not None:
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
    """Halves of each total; the second is the larger one, as in PyTorch, JAX and TensorFlow."""
    return tuple([(total // 2, total - total // 2) for total in totals])
