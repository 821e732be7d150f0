"""What the channels of an offset mean, and where taps are without one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cudeform.checks import DTYPES
from cudeform.geometry import Padding, Pair, as_padding, as_pair, offset_groups_of
from cudeform.inspect.space import Space, dtype_name


@dataclass(frozen=True)
class Layout:
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
    ) -> Layout:
        """The layout of an offset, which must fit the kernel."""
        if not hasattr(offset, "shape") or not hasattr(offset, "dtype"):
            raise TypeError(
                f"offset must be an array, got {type(offset).__name__}; numpy.asarray makes one of "
                "a list or a number"
            )
        dtype = dtype_name(offset)
        if dtype not in DTYPES:
            raise TypeError(f"offset must have a dtype among {', '.join(DTYPES)}, got {dtype}")
        kernel = as_pair("kernel_size", kernel_size, 1)
        (top, _), (left, _) = as_padding(padding)
        shape = tuple(offset.shape)
        return cls(
            # Without channels, any number of offset groups divides them.
            offset_groups=offset_groups_of(0, shape, kernel[0] * kernel[1]),
            batch=shape[0],
            kernel=kernel,
            out_h=shape[2],
            out_w=shape[3],
            stride=as_pair("stride", stride, 1),
            begin=(top, left),
            dilation=as_pair("dilation", dilation, 1),
        )

    def taps(self, space: Space, offset: Any) -> Any:
        """The offset as (N, OG, KH, KW, 2, OH, OW), a view if its dtype is wide enough."""
        shape = (self.batch, self.offset_groups, *self.kernel, 2, self.out_h, self.out_w)
        return space.cast(offset.reshape(shape))

    def regular(self, space: Space) -> tuple[Any, Any]:
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
