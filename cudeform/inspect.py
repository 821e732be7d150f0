"""Where a layer looks: the positions that its taps sample, and their statistics.

Written with the operators of the arrays themselves, so that results stay in their library, on their
device, in their graph; no library is imported for it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from cudeform.arguments import DTYPES
from cudeform.geometry import Padding, Pair, _offset_groups, as_padding, as_pair, geometry_of


def sampling_locations(
    offset: Any,
    kernel_size: Pair,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
) -> Any:
    """Where every tap samples: absolute positions in pixels of the input, y first, then x.

    Tap ``(i, j)`` of output position ``(oy, ox)`` in offset group ``og`` of image ``n`` samples at
    ``y = locations[n, og, i, j, 0, oy, ox]`` and ``x = locations[n, og, i, j, 1, oy, ox]``; (0, 0)
    is the centre of the top left pixel.

    Args:
        offset: (N, 2*offset_groups*KH*KW, OH, OW), an array of any library, as for
            :func:`deform_conv2d`.
        kernel_size: KH and KW, or one number for both; what an offset alone does not tell.
        stride, padding, dilation: as for :func:`deform_conv2d`.

    Returns:
        (N, offset_groups, KH, KW, 2, OH, OW), an array of the same library and device; float64 for
        a float64 offset, float32 for all others. Differentiable where its library is.

    Raises:
        TypeError: no array, an unsupported dtype.
        ValueError: a shape that does not fit the kernel.

    Example:
        >>> import numpy as np, cudeform
        >>> offset = np.zeros((1, 2 * 3 * 3, 8, 8))
        >>> offset[:, 2 * 4] = 0.5  # dy of tap 4, (1, 1), the middle
        >>> where = cudeform.sampling_locations(offset, kernel_size=3, padding=1)
        >>> where.shape
        (1, 1, 3, 3, 2, 8, 8)
        >>> where[0, 0, 1, 1, :, 2, 5]  # y, x
        array([2.5, 5. ])
    """
    layout = _Layout.of(offset, kernel_size, stride, padding, dilation)
    space = _Space.of(offset)
    with space.device:
        y, x = layout.regular(space)
        second = space.range(2).reshape(2, 1, 1)
        return layout.taps(space, offset) + (y * (1 - second) + x * second)


@dataclass(frozen=True)
class OffsetStats:
    """How far the taps of a layer wander; ``str()`` gives a line for a training log.

    Attributes:
        mean: mean length of the finite displacements, pixels.
        largest: largest of them.
        outside: share of the taps, 0 to 1, that sample nothing, since their position is not in
            ``-1 < y < H`` and ``-1 < x < W``. An infinite position is outside, NaN is not.
        non_finite: share of the taps with a NaN or an infinity in their displacement.
        groups: the same for each offset group; empty in the statistics of one group.
    """

    mean: float
    largest: float
    outside: float
    non_finite: float
    groups: tuple[OffsetStats, ...] = ()

    def __str__(self) -> str:
        """One line, the widest-ranging offset group named if there are several."""
        line = (
            f"offsets: mean {self.mean:.2f} px, largest {self.largest:.1f} px, "
            f"outside {self.outside:.1%}, non-finite {self.non_finite:.1%}"
        )
        if len(self.groups) < 2:
            return line
        worst = max(range(len(self.groups)), key=lambda group: self.groups[group].mean)
        mean = self.groups[worst].mean
        return f"{line}; widest of {len(self.groups)} groups: number {worst}, mean {mean:.2f} px"


def offset_stats(
    offset: Any,
    image_size: Sequence[int],
    kernel_size: Pair,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
) -> OffsetStats:
    """Statistics of offsets, for all and for each offset group.

    Computed on the offset's device in one go; a few numbers per group are fetched, which waits for
    them.

    Args:
        offset: (N, 2*offset_groups*KH*KW, OH, OW), an array of any library.
        image_size: H and W of the input.
        kernel_size: KH and KW, or one number for both.
        stride, padding, dilation: as for :func:`deform_conv2d`.

    Raises:
        TypeError: no array, an unsupported dtype.
        ValueError: sizes that do not fit each other, as in :func:`deform_conv2d`.

    Example:
        >>> import numpy as np, cudeform
        >>> offset = np.zeros((1, 2 * 3 * 3, 8, 8))
        >>> offset[:, 1::2] = 4.0  # dx: all taps four pixels to the right
        >>> stats = cudeform.offset_stats(offset, (8, 8), kernel_size=3, padding=1)
        >>> print(stats)
        offsets: mean 4.00 px, largest 4.0 px, outside 54.2%, non-finite 0.0%
        >>> stats.outside > 0.5
        True
    """
    layout = _Layout.of(offset, kernel_size, stride, padding, dilation)
    height, width = as_pair("image_size", image_size, 1)
    kernel_h, kernel_w = layout.kernel
    images = layout.batch
    # No channels and no filters: geometry alone is checked.
    image, weight = (images, 0, height, width), (0, 0, kernel_h, kernel_w)
    geometry_of(image, offset.shape, weight, None, stride, padding, dilation)
    count = images * kernel_h * kernel_w * layout.out_h * layout.out_w
    if count == 0:
        nothing = OffsetStats(0.0, 0.0, 0.0, 0.0)
        groups = (nothing,) * layout.offset_groups
        return OffsetStats(0.0, 0.0, 0.0, 0.0, groups)
    rows = _measure(offset, layout, height, width)
    groups = tuple(_stats(count, [row]) for row in rows)
    whole = _stats(count, rows)
    return OffsetStats(whole.mean, whole.largest, whole.outside, whole.non_finite, groups)


def _measure(offset: Any, layout: _Layout, height: int, width: int) -> list[list[float]]:
    """For each group: sum and largest of the finite displacements, taps outside, not finite."""
    space = _Space.of(offset)
    xp, others = space.xp, (0, 2, 3, 4, 5)
    with space.device:
        taps = layout.taps(space, offset)
        dy, dx = taps[:, :, :, :, 0], taps[:, :, :, :, 1]
        y, x = layout.regular(space)
        y, x = dy + y[:, :, 0], dx + x[:, :, 0]
        finite = xp.isfinite(dy) & xp.isfinite(dx)
        length = xp.where(finite, xp.hypot(dy, dx), xp.zeros_like(dy))
        inside = (y > -1) & (y < height) & (x > -1) & (x < width)
        outside = ~inside & (y == y) & (x == x)  # NaN differs from itself
        parts = (
            length.sum(others),
            xp.amax(length, others),
            space.cast(outside).sum(others),
            space.cast(~finite).sum(others),
        )
        rows: list[list[float]] = xp.stack(parts, 1).tolist()
    return rows


def _stats(count: int, rows: list[list[float]]) -> OffsetStats:
    total, largest, outside, lost = zip(*rows, strict=True)
    taps = count * len(rows)
    return OffsetStats(
        mean=sum(total) / max(1.0, taps - sum(lost)),
        largest=max(largest),
        outside=sum(outside) / taps,
        non_finite=sum(lost) / taps,
    )


@dataclass(frozen=True)
class _Layout:
    """What the channels of an offset mean."""

    batch: int
    offset_groups: int
    kernel: tuple[int, int]
    out_h: int
    out_w: int
    stride: tuple[int, int]
    begin: tuple[int, int]  # padding before the first row and column
    dilation: tuple[int, int]

    @classmethod
    def of(
        cls, offset: Any, kernel_size: Pair, stride: Pair, padding: Padding, dilation: Pair
    ) -> _Layout:
        """The layout of an offset, which must fit the kernel."""
        if not hasattr(offset, "shape") or not hasattr(offset, "dtype"):
            raise TypeError(
                f"offset must be an array, got {type(offset).__name__}; numpy.asarray makes one of "
                "a list or a number"
            )
        dtype = _dtype_name(offset)
        if dtype not in DTYPES:
            raise TypeError(f"offset must have a dtype among {', '.join(DTYPES)}, got {dtype}")
        kernel = as_pair("kernel_size", kernel_size, 1)
        (top, _), (left, _) = as_padding(padding)
        shape = tuple(offset.shape)
        return cls(
            # Without channels, any number of offset groups divides them.
            offset_groups=_offset_groups(0, shape, kernel[0] * kernel[1]),
            batch=shape[0],
            kernel=kernel,
            out_h=shape[2],
            out_w=shape[3],
            stride=as_pair("stride", stride, 1),
            begin=(top, left),
            dilation=as_pair("dilation", dilation, 1),
        )

    def taps(self, space: _Space, offset: Any) -> Any:
        """The offset as (N, OG, KH, KW, 2, OH, OW), a view if its dtype is wide enough."""
        shape = (self.batch, self.offset_groups, *self.kernel, 2, self.out_h, self.out_w)
        return space.cast(offset.reshape(shape))

    def regular(self, space: _Space) -> tuple[Any, Any]:
        """Where taps are without an offset: y as (KH, 1, 1, OH, 1), x as (1, KW, 1, 1, OW)."""
        along = []
        sizes = zip(self.kernel, (self.out_h, self.out_w), strict=True)
        for axis, (kernel, out) in enumerate(sizes):
            taps = space.range(kernel).reshape(kernel, 1) * self.dilation[axis]
            along.append(taps + space.range(out) * self.stride[axis] - self.begin[axis])
        y, x = along
        return (
            y.reshape(self.kernel[0], 1, 1, self.out_h, 1),
            x.reshape(1, self.kernel[1], 1, 1, self.out_w),
        )


@dataclass(frozen=True)
class _Space:
    """The library of an array: its functions, its float dtype for coordinates, its device."""

    xp: Any
    dtype: Any
    device: AbstractContextManager[Any]
    place: dict[str, Any]

    @classmethod
    def of(cls, array: Any) -> _Space:
        library, xp = _library(array)
        return cls(
            xp=xp,
            dtype=xp.float64 if _dtype_name(array) == "float64" else xp.float32,
            # CuPy computes on the current device, NumPy has one, JAX moves a range by itself.
            device=array.device if library == "cupy" else nullcontext(),
            place={} if library in ("numpy", "cupy", "jax") else {"device": array.device},
        )

    def range(self, count: int) -> Any:
        """0, 1, ... as floats."""
        return self.xp.arange(count, dtype=self.dtype, **self.place)

    def cast(self, array: Any) -> Any:
        """The array in the dtype for coordinates."""
        if array.dtype == self.dtype:
            return array
        return array.astype(self.dtype) if hasattr(array, "astype") else array.to(self.dtype)


def _library(array: Any) -> tuple[str, Any]:
    """Name and functions of the library that an array belongs to."""
    if hasattr(array, "__array_namespace__"):
        xp = array.__array_namespace__()
        return xp.__name__.partition(".")[0], xp
    for base in type(array).__mro__:
        name = base.__module__.partition(".")[0]
        if hasattr(sys.modules.get(name), "hypot"):
            return name, sys.modules[name]
    raise TypeError(
        f"offset must be an array of NumPy, CuPy, PyTorch, JAX or another library that has "
        f"__array_namespace__, got {type(array).__name__}; numpy.from_dlpack borrows it"
    )


def _dtype_name(array: Any) -> str:
    return str(array.dtype).rpartition(".")[2]
