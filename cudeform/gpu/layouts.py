"""Layouts: images with their channels last, the weight with its taps first."""

from __future__ import annotations

from math import prod

from cudeform.gpu.call import Call, pointer_of, strides_of
from cudeform.gpu.chunks import Chunk
from cudeform.gpu.device_api.protocol import DeviceArray, Memory

TILE = 32  # of the layout kernels


class ChannelsLast:
    """Images of an array (N, C, H, W) with their channels last: as they are, or copied.

    They are read as they are where channels are neighbours and, if kernels take several at a time,
    every run of them begins at a multiple of 16 bytes.
    """

    def __init__(self, call: Call, array: DeviceArray, most_pixels: int, *, dense: bool) -> None:
        """Prepare to hand out parts.

        Args:
            call: the call.
            array: images of any strides.
            most_pixels: pixels of the largest part.
            dense: whether pixels must follow each other without gaps, as in a matrix.
        """
        self._call, self._array = call, array
        self._held: tuple[slice, slice] | None = None
        self._copy: Memory | None = None
        if not readable(call, array, dense=dense):
            self._copy = call.allocate(most_pixels * array.shape[1])

    def part(self, images: slice, rows: slice) -> DeviceArray:
        """Some rows of some images, (images, C, rows, W); the copy lasts until the next part."""
        _, c, _, w = self._array.shape
        shape = (images.stop - images.start, c, rows.stop - rows.start, w)
        if self._copy is None:
            strides = self._array.strides
            first = images.start * strides[0] + rows.start * strides[2]
            pointer = self._array.pointer + first * self._call.itemsize
            return DeviceArray(pointer, shape, strides, self._array.dtype)
        if self._held != (images, rows):
            self._fill(self._copy, images, rows, shape)
            self._held = (images, rows)
        strides = (shape[2] * w * c, 1, w * c, c)
        return DeviceArray(self._copy.pointer, shape, strides, self._array.dtype)

    def _fill(self, copy: Memory, images: slice, rows: slice, shape: tuple[int, ...]) -> None:
        fields = {
            "source": self._array.strides,
            "first_image": images.start,
            "images": shape[0],
            "first_h": rows.start,
            "size_c": shape[1],
            "size_h": shape[2],
            "size_w": shape[3],
        }
        pointers = (self._array.pointer, copy.pointer)
        shared = TILE * (TILE + 1) * self._call.itemsize
        self._call.launch("channels_last", prod(shape), pointers, fields, shared_bytes=shared)


def readable(call: Call, array: DeviceArray, *, dense: bool) -> bool:
    """Whether kernels, or a product, can read the images as they are."""
    _, c, h, w = array.shape
    strides, vector = array.strides, call.variant.vector
    start = array.pointer % (vector * call.itemsize) == 0
    if dense:
        return start and _same_place(array.shape, strides, (h * w * c, 1, w * c, c))
    aligned = all(stride % vector == 0 for stride in (strides[0], *strides[2:]))
    return (strides[1] == 1 or c == 1) and aligned and start


def _same_place(shape: tuple[int, ...], strides: tuple[int, ...], others: tuple[int, ...]) -> bool:
    """Whether two strides reach the same elements: those of sizes of 1 do not matter."""
    return all(
        size == 1 or stride == other
        for size, stride, other in zip(shape, strides, others, strict=True)
    )


def pack_weight(
    call: Call, weight: DeviceArray | None = None, bias: DeviceArray | None = None
) -> Memory:
    """A weight as (O, leading): taps, channels, then the bias; that of the call unless given."""
    if weight is None:
        weight, bias = call.operands.weight, call.operands.bias
    packed = call.allocate(call.g.out_channels * call.leading)
    fields = {
        "weight": strides_of(weight),
        "bias_stride": 0 if bias is None else bias.strides[0],
        "ld_columns": call.leading,
    }
    pointers = (pointer_of(weight), pointer_of(bias), packed.pointer)
    call.launch("pack_weight", call.g.out_channels * call.leading, pointers, fields)
    return packed


def unpack_weight(
    call: Call, packed: Memory, grad_weight: DeviceArray | None, grad_bias: DeviceArray | None
) -> None:
    """Round the gradient of the packed weight into those of weight and bias."""
    g = call.g
    items = g.out_channels * max(1, g.taps * (g.channels // g.groups))
    pointers = (packed.pointer, pointer_of(grad_weight), pointer_of(grad_bias))
    call.launch("unpack_weight", items, pointers, {"ld_columns": call.leading})


def unpack_input(call: Call, table: Memory, grad_input: DeviceArray, chunk: Chunk) -> None:
    """Round the gradient of some channels-last images into that of the input, contiguous."""
    g = call.g
    fields = {
        "first_image": chunk.images.start,
        "images": chunk.count,
        "size_c": g.channels,
        "size_h": g.in_h,
        "size_w": g.in_w,
    }
    items = chunk.count * g.channels * g.in_pixels
    shared = TILE * (TILE + 1) * call.variant.acc_itemsize
    pointers = (table.pointer, grad_input.pointer)
    call.launch("channels_first", items, pointers, fields, shared_bytes=shared)
