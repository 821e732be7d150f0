"""Images (N, H, W, G, D) for the loops: in place, or converted a range of the batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cudeform.cpu.images import copy_images
from cudeform.cpu.layouts import read_only
from cudeform.cpu.loops.sums.arguments import SumSizes, TapTable
from cudeform.cpu.sums.arrays import (
    element_strides,
    first_element,
    has_adjacent_channels,
    is_addressable,
)
from cudeform.partition import split

if TYPE_CHECKING:
    from cudeform.cpu.sums.call import SumCall

Array = NDArray[Any]


@dataclass(frozen=True)
class SumImages:
    """A range of the batch, in the compute dtype, with adjacent channels.

    Attributes:
        images: the range.
        arrays: images (n, H, W, G, D), and their tangents if there are any. All have the same
            strides.
        sizes: sizes of the call for images with these strides.
        table: properties of its taps for images with these strides.
    """

    images: slice
    arrays: tuple[Array, ...]
    sizes: SumSizes
    table: TapTable

    @classmethod
    def of(cls, call: SumCall, images: slice, arrays: tuple[Array, ...]) -> SumImages:
        """The range ``images`` of a batch, which ``arrays`` contain and nothing else."""
        strides = element_strides(arrays[0])
        sizes, table = SumSizes.of(call.g, strides), TapTable.of(call.g, strides, call.dtype)
        return cls(images, arrays, sizes, table)

    def first(self, image: int, which: int = 0) -> Array:
        """The first element of an image of the batch, read-only."""
        return read_only(first_element(self.arrays[which][image - self.images.start]))


def in_place(arrays: Sequence[Array], dtype: np.dtype[Any]) -> bool:
    """Whether the loops read and write images with the strides that they have."""
    return all(
        is_addressable(array, dtype)
        and has_adjacent_channels(array)
        and array.strides == arrays[0].strides
        for array in arrays
    )


def image_memory(call: SumCall, like: Array) -> Array:
    """Allocate memory for the images that are converted at a time."""
    return np.empty((min(call.images, call.g.batch), *like.shape[1:]), call.dtype)


def images_of(call: SumCall, *arrays: Array | None) -> Iterator[SumImages]:
    """Images, and their tangents if there are any, a range of the batch at a time.

    Converted images share their memory: the next iteration overwrites it.
    """
    present = [array for array in arrays if array is not None]
    if in_place(present, call.dtype):
        yield SumImages.of(call, slice(0, call.g.batch), tuple(present))
        return
    memory = [image_memory(call, array) for array in present]
    for images in split(call.g.batch, call.images):
        converted = tuple([each[: images.stop - images.start] for each in memory])
        for source, target in zip(present, converted, strict=True):
            copy_images(call, source[images], target)
        yield SumImages.of(call, images, converted)
