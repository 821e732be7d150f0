"""Stride, padding and dilation: the forms that callers write, as pairs of integers.

Padding may have a name. "valid" is none; "same" keeps the size of the image and needs stride 1.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

# Coordinates are 32-bit integers, whatever the width of an index.
LARGEST = 2**31 - 1

Pair = int | Sequence[int]
Padding = int | Sequence[int] | Sequence[Sequence[int]] | str

Pairs = tuple[tuple[int, int], tuple[int, int]]


class Settings(NamedTuple):
    """The arguments of a call that are no arrays, unchecked."""

    stride: Pair = 1
    padding: Padding = 0
    dilation: Pair = 1


def settings_of(input: Any, weight: Any, stride: Any, padding: Any, dilation: Any) -> Settings:
    """Settings of a call, with arrays as tuples and names of padding as numbers.

    A name is kept where an array has no ``shape``; the geometry resolves it.
    """
    stride, padding, dilation = plain(stride), plain(padding), plain(dilation)
    if isinstance(padding, str):
        in_shape, weight_shape = getattr(input, "shape", None), getattr(weight, "shape", None)
        if in_shape is not None and weight_shape is not None:
            padding = padding_of_shapes(padding, in_shape, weight_shape, stride, dilation)
    return Settings(stride, padding, dilation)


def padding_of_shapes(
    padding: Padding, input: Sequence[int], weight: Sequence[int], stride: Pair, dilation: Pair
) -> Pairs:
    """:func:`as_padding` for the shapes of a call."""
    if isinstance(padding, str) and not len(input) == len(weight) == 4:
        return (0, 0), (0, 0)  # such shapes are refused, whatever the padding
    return as_padding(padding, weight[2:], stride, dilation, input[2:])


def plain(value: Any) -> Any:
    """The numbers of an array as a number or nested tuples; anything else as it is."""
    return _nested_tuple(value.tolist()) if hasattr(value, "tolist") else value


def _nested_tuple(value: Any) -> Any:
    return tuple(map(_nested_tuple, value)) if isinstance(value, list) else value


def as_pair(name: str, value: object, least: int) -> tuple[int, int]:
    """A pair (vertical, horizontal) of integers, from one integer, a pair, or an array of these.

    Args:
        name: of the argument, for error texts.
        value: what the caller passed.
        least: the smallest value allowed.
    """
    value = plain(value)
    if not isinstance(value, Sequence) or isinstance(value, str):
        number = _integer(name, value, least)
        return number, number
    if len(value) != 2:
        raise ValueError(f"{name} must be an integer or a pair (vertical, horizontal), got {value}")
    return _integer(name, value[0], least), _integer(name, value[1], least)


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
    kernel: Sequence[int],
    stride: Pair = 1,
    dilation: Pair = 1,
    size: Sequence[int] | None = None,
) -> Pairs:
    """Padding as ((top, bottom), (left, right)).

    Args:
        value: a number, a pair, a pair of pairs, an array of these, "valid" or "same".
        kernel, stride, dilation: of the convolution; "same" depends on them.
        size: (H, W) of the image where it is known, for an error text.
    """
    value = plain(value)
    if isinstance(value, str):
        return _named_padding(value, kernel, stride, dilation, size)
    if not isinstance(value, Sequence):
        both = _integer("padding", value, 0)
        return (both, both), (both, both)
    if len(value) != 2:
        raise ValueError(f"padding must be {_PADDING_RULE}, got {value}")
    return as_pair("padding", value[0], 0), as_pair("padding", value[1], 0)


_PADDING_RULE = (
    "an integer, a pair (vertical, horizontal), a pair of pairs ((top, bottom), (left, right)), "
    '"valid" or "same"'
)


def _named_padding(
    name: str, kernel: Sequence[int], stride: Pair, dilation: Pair, size: Sequence[int] | None
) -> Pairs:
    if name == "valid":
        return (0, 0), (0, 0)
    if name != "same":
        raise ValueError(f"padding must be {_PADDING_RULE}, got {name!r}")
    strides, dilations = as_pair("stride", stride, 1), as_pair("dilation", dilation, 1)
    spans = [d * (k - 1) for k, d in zip(kernel, dilations, strict=True)]
    if strides == (1, 1):
        return _halves(spans)
    by_size = "depends on the size of the image"
    if size is not None:
        last = [-(-n // s) * s - s for n, s in zip(size, strides, strict=True)]
        totals = [max(at + span + 1 - n, 0) for at, span, n in zip(last, spans, size, strict=True)]
        by_size = f"is {_halves(totals)} here"
    raise ValueError(
        f'padding="same" needs stride 1, got {strides}. Two rules are in use for other strides: '
        f"the padding of stride 1, {_halves(spans)}, or the padding for ceil(size / stride) rows "
        f"and columns of output, as in TensorFlow and ONNX, which {by_size}. Write the one you mean"
    )


def _halves(totals: Sequence[int]) -> Pairs:
    """Halves of both totals; the second is the larger one, as in PyTorch, JAX and TensorFlow."""
    vertical, horizontal = totals
    return (vertical // 2, vertical - vertical // 2), (
        horizontal // 2,
        horizontal - horizontal // 2,
    )
