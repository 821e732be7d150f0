"""The locations that the taps of a layer sample, and the layout of an offset's channels."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from cudeform.checks import DTYPES
from cudeform.inspect._namespace import Namespace, dtype_name, exporter_of, import_foreign
from cudeform.settings import Ints, Padding, PerAxis, as_ints, as_padding
from cudeform.shape_rules import offset_groups_of


def sampling_locations(
    offset: Any,
    kernel_size: Ints,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
) -> Any:
    """Compute where every tap samples: coordinates in pixels of the input, y first, then x.

    Tap ``(i, j)`` of output position ``(oy, ox)`` in offset group ``og`` of image ``n`` samples at
    ``y = locations[n, og, i, j, 0, oy, ox]`` and ``x = locations[n, og, i, j, 1, oy, ox]``; (0, 0)
    is the centre of the top left pixel. In one dimension there is x alone, in three z comes first.

    For a transposed convolution the positions are those of its input, and the coordinates are
    pixels of its output, to which the taps add.

    Args:
        offset: (N, 2*offset_groups*KH*KW, OH, OW), an array of any library, as for
            :func:`deform_conv2d`; (N, offset_groups*KW, OW) in one dimension,
            (N, 3*offset_groups*KD*KH*KW, OD, OH, OW) in three. Of a transposed convolution,
            the sizes of the input take the place of OD, OH, OW.
        kernel_size: one number for all axes, or one per axis. The offset's shape does not give it.
        stride, padding, dilation: as for :func:`deform_conv2d`.

    Returns:
        (N, offset_groups, KH, KW, 2, OH, OW), (N, offset_groups, KW, 1, OW) or
        (N, offset_groups, KD, KH, KW, 3, OD, OH, OW), an array of the same library and device;
        float64 for a float64 offset, float32 for all others. Differentiable if the library is.

    Raises:
        TypeError: the offset is not an array, or its dtype is not supported.
        ValueError: the shape of the offset does not fit the kernel.

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
    export, offset = exporter_of(offset), import_foreign(offset)
    layout = OffsetLayout.of(offset, kernel_size, stride, padding, dilation)
    namespace = Namespace.of(offset)
    with namespace.device_context:
        which = namespace.arange(layout.axes).reshape(layout.axes, *[1] * layout.axes)
        grid = sum(
            along * namespace.cast(which == axis)
            for axis, along in enumerate(layout.regular_grid(namespace))
        )
        return export(layout.displacements(namespace, offset) + grid)


@dataclass(frozen=True)
class OffsetLayout:
    """The sizes that give an offset's channels their meaning; tuples have one size per axis."""

    batch: int
    offset_groups: int
    kernel: PerAxis
    out_size: PerAxis
    stride: PerAxis
    padding_begin: PerAxis
    dilation: PerAxis

    @classmethod
    def of(
        cls, offset: Any, kernel_size: Ints, stride: Ints, padding: Padding, dilation: Ints
    ) -> OffsetLayout:
        """Check an offset against the kernel; its rank gives the number of axes."""
        if not hasattr(offset, "shape") or not hasattr(offset, "dtype"):
            raise TypeError(
                f"offset must be an array, got {type(offset).__name__}; numpy.asarray makes one of "
                "a list or a number"
            )
        dtype = dtype_name(offset)
        if dtype not in DTYPES:
            raise TypeError(f"offset must have a dtype among {', '.join(DTYPES)}, got {dtype}")
        shape = tuple(offset.shape)
        axes = len(shape) - 2
        if axes not in (1, 2, 3):
            raise ValueError(
                "offset must have shape (N, 2*offset_groups*KH*KW, OH, OW), with one axis less in "
                f"one dimension and one more in three, got {shape}"
            )
        kernel = as_ints("kernel_size", kernel_size, 1, axes)
        pads = as_padding(padding, axes, kernel, stride, dilation)
        return cls(
            # With 0 channels, any number of offset groups is accepted.
            offset_groups=offset_groups_of(0, shape, prod(kernel), axes),
            batch=shape[0],
            kernel=kernel,
            out_size=shape[2:],
            stride=as_ints("stride", stride, 1, axes),
            padding_begin=tuple(begin for begin, _ in pads),
            dilation=as_ints("dilation", dilation, 1, axes),
        )

    @property
    def axes(self) -> int:
        """Number of axes."""
        return len(self.kernel)

    def displacements(self, namespace: Namespace, offset: Any) -> Any:
        """The offset as (N, OG, KH, KW, 2, OH, OW), a view if its dtype is that of coordinates."""
        shape = (self.batch, self.offset_groups, *self.kernel, self.axes, *self.out_size)
        return namespace.cast(offset.reshape(shape))

    def regular_grid(self, namespace: Namespace) -> list[Any]:
        """Locations without an offset, by axis: (KH, 1, 1, OH, 1) and (1, KW, 1, 1, OW)."""
        return [self._regular_axis(namespace, axis) for axis in range(self.axes)]

    def _regular_axis(self, namespace: Namespace, axis: int) -> Any:
        kernel, out = self.kernel[axis], self.out_size[axis]
        taps = namespace.arange(kernel).reshape(kernel, 1) * self.dilation[axis]
        positions = namespace.arange(out) * self.stride[axis]
        shape = [1] * (2 * self.axes + 1)
        shape[axis], shape[self.axes + 1 + axis] = kernel, out
        return (taps + positions - self.padding_begin[axis]).reshape(shape)
