"""The positions that the taps of a layer sample."""

from __future__ import annotations

from typing import Any

from cudeform.geometry import Padding, Pair
from cudeform.inspect.layout import Layout
from cudeform.inspect.space import Space, borrowed


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
    offset, give_back = borrowed(offset)
    layout = Layout.of(offset, kernel_size, stride, padding, dilation)
    space = Space.of(offset)
    with space.device:
        y, x = layout.regular(space)
        second = space.range(2).reshape(2, 1, 1)
        return give_back(layout.taps(space, offset) + (y * (1 - second) + x * second))
