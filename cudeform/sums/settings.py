"""The settings of deformable attention, DCNv3 and DCNv4.

Settings are packed into integers, because an operator of torch takes one list of them. A list of
levels has its length in front. A scale is packed as an integer mantissa and an exponent, which
represent it exactly.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Sequence
from math import frexp, isfinite, ldexp
from typing import Any, NamedTuple

import numpy as np

from cudeform.settings import Ints, Padding, PerAxis, as_ints, as_padding, plain

SpatialShapes = Any  # a sequence of pairs, or an array (L, 2)
MANTISSA_BITS = 53


class AttentionSettings(NamedTuple):
    """The arguments of ``ms_deform_attn`` that are not operands, unchecked."""

    spatial_shapes: SpatialShapes
    points: Sequence[int] | None = None

    def resolved(self, input: Any, weight: Any, axes: int) -> AttentionSettings:
        """The settings as tuples; an array on a device is read, which waits for the device."""
        points = None if self.points is None else as_tuple("points", self.points)
        return AttentionSettings(as_tuple("spatial_shapes", self.spatial_shapes), points)

    def packed(self, axes: int) -> PerAxis:
        """The number of levels, and for each its height, width and points, 0 if not given."""
        sizes = levels_of(self.spatial_shapes)
        points = points_of(self.points, len(sizes))
        each = [
            number for size, taps in zip(sizes, points, strict=True) for number in (*size, taps)
        ]
        return (len(sizes), *each)

    @staticmethod
    def length(numbers: PerAxis, axes: int) -> int:
        """The number of integers of :meth:`packed` in front of a list."""
        return 1 + 3 * numbers[0] if numbers else 1

    @staticmethod
    def unpacked(numbers: PerAxis, axes: int) -> AttentionSettings:
        """The inverse of :meth:`packed`."""
        levels = numbers[0]
        heights, widths, points = numbers[1::3], numbers[2::3], numbers[3::3]
        sizes = tuple([(heights[at], widths[at]) for at in range(levels)])
        return AttentionSettings(sizes, points if levels and points[0] else None)


class DCNv3Settings(NamedTuple):
    """The arguments of ``dcnv3`` that are not arrays, unchecked; pairs have the vertical first."""

    kernel_size: Ints
    stride: Ints = 1
    padding: Padding = 0
    dilation: Ints = 1
    offset_scale: float | tuple[int, int] = 1.0
    remove_center: bool = False

    def resolved(self, input: Any, weight: Any, axes: int) -> DCNv3Settings:
        """The settings with arrays converted to numbers and tuples."""
        return DCNv3Settings(*map(plain, self))

    def packed(self, axes: int) -> PerAxis:
        """The settings as integers: pairs, paddings as four, the flag, the scale as two."""
        kernel = as_ints("kernel_size", self.kernel_size, 1, 2)
        stride = as_ints("stride", self.stride, 1, 2)
        dilation = as_ints("dilation", self.dilation, 1, 2)
        sides = as_padding(self.padding, 2, kernel, stride, dilation)
        pads = [pad for both in sides for pad in both]
        removed = self._removed(kernel)
        return (*kernel, *stride, *pads, *dilation, removed, *scale_parts(self.offset_scale))

    def _removed(self, kernel: PerAxis) -> int:
        if self.remove_center not in (True, False):
            raise TypeError(f"remove_center must be True or False, got {self.remove_center!r}")
        if self.remove_center and not all(size % 2 for size in kernel):
            raise ValueError(
                f"remove_center needs a kernel with a centre, of odd sizes, got {kernel}"
            )
        return int(self.remove_center)

    @staticmethod
    def length(numbers: PerAxis, axes: int) -> int:
        """The number of integers of :meth:`packed` in front of a list."""
        return 13

    @staticmethod
    def unpacked(numbers: PerAxis, axes: int) -> DCNv3Settings:
        """The inverse of :meth:`packed`."""
        kernel, stride, pads, dilation = numbers[:2], numbers[2:4], numbers[4:8], numbers[8:10]
        removed, mantissa, exponent = numbers[10:13]
        scale = ldexp(mantissa, exponent - MANTISSA_BITS)
        return DCNv3Settings(kernel, stride, (pads[:2], pads[2:]), dilation, scale, bool(removed))


class DCNv4Settings(NamedTuple):
    """The arguments of ``dcnv4`` that are not arrays, unchecked: groups, and those of ``dcnv3``."""

    kernel_size: Ints
    groups: int
    stride: Ints = 1
    padding: Padding = 0
    dilation: Ints = 1
    offset_scale: float = 1.0
    remove_center: bool = False

    @property
    def grid(self) -> DCNv3Settings:
        """Those that it has in common with ``dcnv3``."""
        return DCNv3Settings(self.kernel_size, *self[2:])

    def resolved(self, input: Any, weight: Any, axes: int) -> DCNv4Settings:
        """The settings with arrays converted to numbers and tuples."""
        return DCNv4Settings(*map(plain, self))

    def packed(self, axes: int) -> PerAxis:
        """The settings as integers: groups in front of those of ``dcnv3``."""
        (groups,) = as_ints("groups", self.groups, 1, 1)
        return (groups, *self.grid.packed(axes))

    @staticmethod
    def length(numbers: PerAxis, axes: int) -> int:
        """The number of integers of :meth:`packed` in front of a list."""
        return 14

    @staticmethod
    def unpacked(numbers: PerAxis, axes: int) -> DCNv4Settings:
        """The inverse of :meth:`packed`."""
        of_grid: Any = DCNv3Settings.unpacked(numbers[1:], axes)
        return DCNv4Settings(of_grid[0], numbers[0], *of_grid[1:])


def as_tuple(name: str, value: Any) -> Any:
    """A sequence or an array of numbers as nested tuples.

    Raises:
        TypeError: neither of them, or an array that cannot be read now.
    """
    if _is_array(value):
        return plain(value) if type(value).__module__ == "numpy" else _read(name, value)
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise TypeError(f"{name} must be a sequence or an array of integers, got {value!r}")
    return tuple([as_tuple(name, each) if _is_nested(each) else each for each in value])


def _is_nested(value: Any) -> bool:
    # An int comes first: torch.compile cannot ask a symbolic one for its attributes.
    return not isinstance(value, int) and (_is_array(value) or isinstance(value, Sequence))


def _is_array(value: Any) -> bool:
    return hasattr(value, "tolist") or hasattr(value, "__array__")


def _read(name: str, array: Any) -> Any:
    """Read an array whose library may be tracing a program, or recording a CUDA graph."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.compiler.is_compiling():  # the tracer would refuse to read
        raise TypeError(_unreadable(name, array))
    try:
        return plain(array if hasattr(array, "tolist") else np.asarray(array))
    except Exception as error:
        raise TypeError(_unreadable(name, array)) from error


def _unreadable(name: str, array: Any) -> str:
    return (
        f"{name} must have values that can be read when the call is made, but this array of "
        f"{type(array).__module__.partition('.')[0]} cannot be read while a program is traced "
        f"or a CUDA graph is recorded: pass a list of numbers, {name}.tolist() taken outside"
    )


def levels_of(spatial_shapes: Any) -> tuple[tuple[int, int], ...]:
    """Heights and widths of the levels.

    Raises:
        TypeError: no sequence of pairs of integers.
        ValueError: no level, or a size below 1.
    """
    rule = "spatial_shapes must be pairs (height, width), one for each level"
    if not isinstance(spatial_shapes, tuple):
        spatial_shapes = as_tuple("spatial_shapes", spatial_shapes)
    if not spatial_shapes:
        raise ValueError(f"{rule}, and there must be at least one, got {spatial_shapes}")
    sizes = []
    for size in spatial_shapes:
        if not isinstance(size, tuple) or len(size) != 2:
            raise ValueError(f"{rule}, got {spatial_shapes}")
        height, width = as_ints("spatial_shapes", size, 1, 2)
        sizes.append((height, width))
    return tuple(sizes)


def points_of(points: Any, levels: int) -> tuple[int, ...]:
    """Points of each level, 0 if they are not given.

    Raises:
        TypeError: no integers.
        ValueError: another number of them than levels, or one below 1.
    """
    if points is None:
        return (0,) * levels
    each = as_tuple("points", points)
    if len(each) != levels:
        raise ValueError(
            f"points must be one number for each of the {levels} levels of spatial_shapes, "
            f"got {each}"
        )
    for number in each:
        as_ints("points", number, 1, 1)
    return tuple([operator.index(number) for number in each])


def scale_parts(scale: Any) -> tuple[int, int]:
    """Mantissa and exponent of a number, as integers; such a pair is returned as it is."""
    if isinstance(scale, tuple):
        return scale
    if isinstance(scale, str) or not hasattr(scale, "__float__"):
        raise TypeError(f"offset_scale must be a number, got {scale!r}")
    number = float(scale)
    if not isfinite(number):
        raise ValueError(f"offset_scale must be finite, got {number}")
    mantissa, exponent = frexp(number)
    return int(mantissa * 2**MANTISSA_BITS), exponent
