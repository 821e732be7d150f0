"""Statistics of how far the offsets of a layer displace its taps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from math import prod
from operator import and_
from typing import Any

from cudeform.geometry import geometry_of
from cudeform.inspect._namespace import Namespace, import_foreign
from cudeform.inspect.locations import OffsetLayout
from cudeform.settings import Ints, Padding, PerAxis, as_ints


@dataclass(frozen=True)
class OffsetStats:
    """How far the taps of a layer are displaced; ``str()`` gives a line for a training log.

    Attributes:
        mean: mean length of the finite displacements, in pixels.
        largest: length of the longest finite displacement, in pixels.
        outside: fraction of the taps that are out of bounds: ``-1 < y < H`` and ``-1 < x < W`` do
            not both hold (likewise for one or three axes), so the tap samples zero. An infinite
            coordinate is out of bounds; a NaN coordinate is not.
        non_finite: fraction of the taps with a NaN or an infinity in their displacement.
        groups: the statistics of each offset group; empty in the statistics of one group.
    """

    mean: float
    largest: float
    outside: float
    non_finite: float
    groups: tuple[OffsetStats, ...] = ()

    def __str__(self) -> str:
        """The statistics in one line, with the group of the largest mean if there are several."""
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
    kernel_size: Ints,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
) -> OffsetStats:
    """Compute statistics of the offsets, for all offset groups together and for each.

    The statistics are computed on the offset's device. The call waits for the result, a few numbers
    per group.

    Args:
        offset: (N, 2*offset_groups*KH*KW, OH, OW), an array of any library; in one or three
            dimensions, the shape is that of :func:`sampling_locations`.
        image_size: H and W of the input, one number per axis. Of a transposed convolution, the
            size of the output.
        kernel_size: KH and KW: one number per axis, or one number for all.
        stride, padding, dilation: as for :func:`deform_conv2d`.

    Returns:
        Lengths in pixels of the input and fractions of the taps; ``str()`` gives one line.

    Raises:
        TypeError: the offset is not an array, or its dtype is not supported.
        ValueError: sizes do not fit each other, as in :func:`deform_conv2d`.

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
    offset = import_foreign(offset)
    layout = OffsetLayout.of(offset, kernel_size, stride, padding, dilation)
    size = as_ints("image_size", image_size, 1, layout.axes)
    # Shapes with 0 channels and 0 filters, to check the other sizes.
    image, weight = (layout.batch, 0, *size), (0, 0, *layout.kernel)
    settings = stride, padding, dilation
    geometry_of(image, offset.shape, weight, None, *settings, axes=layout.axes)
    count = prod((layout.batch, *layout.kernel, *layout.out_size))
    if count == 0:
        groups = (OffsetStats(0.0, 0.0, 0.0, 0.0),) * layout.offset_groups
        return OffsetStats(0.0, 0.0, 0.0, 0.0, groups)
    rows = _measure(offset, layout, size)
    groups = tuple(_stats(count, [row]) for row in rows)
    whole = _stats(count, rows)
    return OffsetStats(whole.mean, whole.largest, whole.outside, whole.non_finite, groups)


def _measure(offset: Any, layout: OffsetLayout, size: PerAxis) -> list[list[float]]:
    """Per group: sum and maximum of the finite lengths, number of taps outside, and not finite."""
    namespace, axes = Namespace.of(offset), layout.axes
    xp, all_but_group = namespace.xp, (0, *range(2, 2 + 2 * axes))
    every = slice(None)
    with namespace.device_context:
        displacements = layout.displacements(namespace, offset)
        along = [displacements[(*[every] * (2 + axes), axis)] for axis in range(axes)]
        grid = [each[(*[every] * axes, 0)] for each in layout.regular_grid(namespace)]
        at = [a + b for a, b in zip(along, grid, strict=True)]
        finite = reduce(and_, map(xp.isfinite, along))
        length = reduce(xp.hypot, along[1:], xp.abs(along[0]))
        length = xp.where(finite, length, xp.zeros_like(length))
        inside = reduce(and_, [(c > -1) & (c < n) for c, n in zip(at, size, strict=True)])
        outside = ~inside & reduce(and_, [c == c for c in at])  # NaN differs from itself
        columns = (
            length.sum(all_but_group),
            xp.amax(length, all_but_group),
            namespace.cast(outside).sum(all_but_group),
            namespace.cast(~finite).sum(all_but_group),
        )
        rows: list[list[float]] = xp.stack(columns, 1).tolist()
    return rows


def _stats(count: int, rows: list[list[float]]) -> OffsetStats:
    total, largest, outside, non_finite = zip(*rows, strict=True)
    taps = count * len(rows)
    return OffsetStats(
        mean=sum(total) / max(1.0, taps - sum(non_finite)),
        largest=max(largest),
        outside=sum(outside) / taps,
        non_finite=sum(non_finite) / taps,
    )
