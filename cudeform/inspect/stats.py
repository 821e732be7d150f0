"""How far the offsets of a layer displace its taps, in numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from cudeform.geometry import geometry_of
from cudeform.inspect._namespace import Namespace, import_foreign
from cudeform.inspect.locations import AXES, OffsetLayout
from cudeform.settings import Padding, Pair, as_ints


@dataclass(frozen=True)
class OffsetStats:
    """How far the taps of a layer are displaced; ``str()`` gives a line for a training log.

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
        """One line; it names the offset group with the largest mean if there are several."""
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

    Computed on the offset's device; the call waits for the result, a few numbers per group.

    Args:
        offset: (N, 2*offset_groups*KH*KW, OH, OW), an array of any library.
        image_size: H and W of the input.
        kernel_size: KH and KW, or one number for both.
        stride, padding, dilation: as for :func:`deform_conv2d`.

    Returns:
        Lengths in pixels of the input, shares of the taps; ``str()`` makes a line of them.

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
    offset = import_foreign(offset)
    layout = OffsetLayout.of(offset, kernel_size, stride, padding, dilation)
    height, width = as_ints("image_size", image_size, 1, AXES)
    # Shapes without channels and filters, to check the other sizes.
    image, weight = (layout.batch, 0, height, width), (0, 0, *layout.kernel)
    geometry_of(image, offset.shape, weight, None, stride, padding, dilation)
    count = prod((layout.batch, *layout.kernel, *layout.out_size))
    if count == 0:
        groups = (OffsetStats(0.0, 0.0, 0.0, 0.0),) * layout.offset_groups
        return OffsetStats(0.0, 0.0, 0.0, 0.0, groups)
    rows = _measure(offset, layout, height, width)
    groups = tuple(_stats(count, [row]) for row in rows)
    whole = _stats(count, rows)
    return OffsetStats(whole.mean, whole.largest, whole.outside, whole.non_finite, groups)


def _measure(offset: Any, layout: OffsetLayout, height: int, width: int) -> list[list[float]]:
    """For each group: sum and maximum of the finite lengths, taps outside, taps not finite."""
    namespace = Namespace.of(offset)
    xp, all_but_group = namespace.xp, (0, 2, 3, 4, 5)
    with namespace.device_context:
        displacements = layout.displacements(namespace, offset)
        dy, dx = displacements[:, :, :, :, 0], displacements[:, :, :, :, 1]
        y, x = layout.regular_grid(namespace)
        y, x = dy + y[:, :, 0], dx + x[:, :, 0]
        finite = xp.isfinite(dy) & xp.isfinite(dx)
        length = xp.where(finite, xp.hypot(dy, dx), xp.zeros_like(dy))
        inside = (y > -1) & (y < height) & (x > -1) & (x < width)
        outside = ~inside & (y == y) & (x == x)  # NaN differs from itself
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
