"""Images (N, H, W, G, D) for the loops: in place, or converted a range of the batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cudeform.cpu.images import clear_images, copy_images
from cudeform.cpu.layouts import read_only
from cudeform.cpu.loops.sums.arguments import SumSizes, TapTable
from cudeform.cpu.sums.arrays import (
    element_strides,
    first_element,
    has_adjacent_channels,
    is_addressable,
)
from cudeform.partition import split
from cudeform.sums_geometry import SumGeometry

if TYPE_CHECKING:
    from cudeform.cpu.sums.call import SumCall

Array = NDArray[Any]


@lru_cache(maxsize=256)
def _sizes_and_table(
    g: SumGeometry, strides: tuple[int, ...], dtype: np.dtype[Any]
) -> tuple[SumSizes, TapTable]:
    """Sizes and properties of taps for images with these strides; the loops only read them."""
    return SumSizes.of(g, strides), TapTable.of(g, strides, dtype)


@dataclass(frozen=True)
class SumImages:
    """A range of the batch, in the compute dtype, with adjacent channels.

    Attributes:
        images: the range.
        arrays: images (n, H, W, G, D), and their tangents if there are any.
        sums: their gradient, to which the loops add; None if it is not computed. All these arrays
            have the same strides.
        sizes: sizes of the call for images with these strides.
        table: properties of its taps for images with these strides.
    """

    images: slice
    arrays: tuple[Array, ...]
    sums: Array | None
    sizes: SumSizes
    table: TapTable

    @classmethod
    def of(
        cls, call: SumCall, images: slice, arrays: tuple[Array, ...], sums: Array | None
    ) -> SumImages:
        """The images of a range of the batch; the arrays contain only these."""
        strides = element_strides(arrays[0] if sums is None else sums)
        return cls(images, arrays, sums, *_sizes_and_table(call.g, strides, call.dtype))

    def first(self, image: int, which: int = 0) -> Array:
        """The first element of an image of the batch, read-only; any element without images."""
        if not self.arrays:
            return read_only(self.first_sum(image))
        return read_only(first_element(self.arrays[which][image - self.images.start]))

    def first_sum(self, image: int) -> Array:
        """The first element of the gradient of an image; any element if there is no gradient."""
        if self.sums is None:
            return np.empty(1, self.arrays[0].dtype)
        return first_element(self.sums[image - self.images.start])


def in_place(g: SumGeometry, arrays: Sequence[Array], dtype: np.dtype[Any]) -> bool:
    """Whether the loops can use images with their own strides.

    The loops use 32-bit integers for the distances between pixels.
    """
    width = 1 if g.grid else max(level.width for level in g.levels)
    return all(
        is_addressable(array, dtype)
        and has_adjacent_channels(array)
        and array.strides == arrays[0].strides
        and width * max(map(abs, array.strides[1:3])) < 2**31
        for array in arrays
    )


def image_memory(call: SumCall, like: Array) -> Array:
    """Allocate memory for the images that are converted at a time."""
    return np.empty((min(call.images, call.g.batch), *like.shape[1:]), call.dtype)


def images_of(
    call: SumCall, arrays: Sequence[Array | None], result: Array | None = None
) -> Iterator[SumImages]:
    """Images and their tangents that are not None, a range of the batch at a time.

    Converted images share their memory: the next iteration overwrites it.

    Args:
        call: the call.
        arrays: the images and their tangents.
        result: the gradient of the images, which is what the loops have added when the next range
            is requested; None if it is not computed.
    """
    present = [array for array in arrays if array is not None]
    results = [] if result is None else [result]
    if in_place(call.g, [*present, *results], call.dtype):
        if result is not None:
            clear_images(call, result)
        yield SumImages.of(call, slice(0, call.g.batch), tuple(present), result)
        return
    memory = [image_memory(call, array) for array in (*present, *results)]
    for images in split(call.g.batch, call.images):
        converted = [each[: images.stop - images.start] for each in memory]
        for source, target in zip(present, converted, strict=False):
            copy_images(call, source[images], target)
        if result is None:
            yield SumImages.of(call, images, tuple(converted), None)
        else:
            *copies, sums = converted
            clear_images(call, sums)
            yield SumImages.of(call, images, tuple(copies), sums)
            copy_images(call, sums, result[images])
