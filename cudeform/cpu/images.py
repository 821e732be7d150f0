"""Conversion of images to the channels-last layout that the CPU loops need, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cudeform.cpu.layouts import read_only
from cudeform.cpu.loops.transposition import transpose
from cudeform.partition import split

if TYPE_CHECKING:
    from cudeform.cpu.call import Call

Array = NDArray[Any]

# Target size of one copy task, in elements.
COPIED_ELEMENTS = 2**17


class Runner(Protocol):
    """A call, which runs work on its threads."""

    def run(
        self, work: Callable[[Any, Any], None], items: Sequence[Any], scratch: Callable[[], Any]
    ) -> None: ...


@dataclass(frozen=True)
class Images:
    """Channels-last images: a range of the batch.

    Attributes:
        images: their range in the batch.
        pixels: their elements, (images, H, W, C) flattened.
    """

    images: slice
    pixels: Array


def channels_last(call: Call, array: Array) -> Iterator[Images]:
    """Convert images (N, C, H, W) to channels-last, a range of the batch at a time.

    Images that are already channels-last in memory, and of the call's dtype, are not copied.
    All copies share one buffer: the next iteration overwrites it.
    """
    buffer = None
    for images in split(call.g.batch, call.tiling.images):
        batch = array[images]
        view = np.moveaxis(batch, 1, -1)
        if view.dtype == call.dtype and view.flags.c_contiguous:
            yield Images(images, read_only(view.reshape(-1)))
            continue
        buffer = allocate_images(call) if buffer is None else buffer
        pixels = buffer[: view.size]
        if batch.dtype == call.dtype and batch.flags.c_contiguous:
            _transpose(call, read_only(batch.reshape(-1)), pixels, len(batch), to_last=True)
        else:
            copy_images(call, view, pixels.reshape(view.shape))
        yield Images(images, read_only(pixels))


def channels_first(call: Call, pixels: Array, array: Array) -> None:
    """Write flattened channels-last images into an array (N, C, H, W)."""
    if array.dtype == call.dtype and array.flags.c_contiguous:
        _transpose(call, read_only(pixels), array.reshape(-1), len(array), to_last=False)
    else:
        view = np.moveaxis(array, 1, -1)
        copy_images(call, pixels.reshape(view.shape), view)


def allocate_images(call: Call) -> Array:
    """Allocate a flat buffer for the images that are converted at a time."""
    return np.empty(call.tiling.images * call.g.in_pixels * call.g.channels, call.dtype)


def _transpose(call: Call, source: Array, target: Array, count: int, *, to_last: bool) -> None:
    channels, pixels = call.g.channels, call.g.in_pixels

    def transpose_part(part: tuple[int, slice]) -> None:
        first = part[0] * channels * pixels
        width = part[1].stop - part[1].start
        planes = first + part[1].start, pixels
        rows = first + part[1].start * channels, channels
        if to_last:
            transpose(source, *planes, target, *rows, channels, width)
        else:
            transpose(source, *rows, target, *planes, width, channels)

    parts = split(pixels, max(1, COPIED_ELEMENTS // max(1, channels)))
    _each(call, transpose_part, [(n, part) for n in range(count) for part in parts])


def copy_images(call: Runner, source: Array, target: Array) -> None:
    """Copy images (N, H, W, C) of any strides and dtype; threads share the rows."""

    def copy(rows: slice) -> None:
        target[:, rows] = source[:, rows]

    row_size = source[:, :1].size
    _each(call, copy, split(source.shape[1], max(1, COPIED_ELEMENTS // max(1, row_size))))


def _each(call: Runner, work: Callable[[Any], None], items: list[Any]) -> None:
    call.run(lambda item, _: work(item), items, lambda: None)
