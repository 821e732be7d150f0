"""Conversions to the layouts of the kernels: channels-last images, and the packed weight."""

from __future__ import annotations

from math import prod

from cudeform.arrays import DeviceArray
from cudeform.gpu.call import Call, pointer_of
from cudeform.gpu.chunks import Chunk
from cudeform.gpu.device_api import conv_params
from cudeform.gpu.device_api.protocol import Memory

TRANSPOSE_TILE = 32  # side of the tile in shared memory of the layout kernels


class ChannelsLast:
    """Channels-last images of an array (N, C, *size): a view, or a copy if necessary."""

    def __init__(self, call: Call, array: DeviceArray, max_pixels: int, *, dense: bool) -> None:
        """Allocate memory for a copy, unless the array can be read without one.

        Args:
            call: the call that reads the images.
            array: images with any strides.
            max_pixels: number of pixels of the largest part that :meth:`part` will return.
            dense: whether pixels must be contiguous, as the rows of a matrix.
        """
        self._call, self._array = call, array
        self._copied: tuple[slice, slice] | None = None
        self._copy: Memory | None = None
        if not needs_no_copy(call, array, dense=dense):
            self._copy = call.allocate(max_pixels * array.shape[1])

    def part(self, images: slice, pixels: slice | None = None) -> DeviceArray:
        """A range of images, (images, C, *size), or a range of their pixels, (images, C, pixels).

        A range of pixels needs dense images. A copy is overwritten by the next call.
        """
        _, channels, *size = self._array.shape
        if pixels is not None:
            size = [pixels.stop - pixels.start]
        shape = (images.stop - images.start, channels, *size)
        strides = _channels_last_strides(shape)
        if self._copy is None:
            first = images.start * self._array.strides[0]
            if pixels is None:
                strides = self._array.strides
            else:
                first += pixels.start * channels
            pointer = self._array.pointer + first * self._call.itemsize
            return DeviceArray(pointer, shape, strides, self._array.dtype)
        source = slice(0, prod(size)) if pixels is None else pixels
        if self._copied != (images, source):
            self._fill(self._copy, images, source)
            self._copied = (images, source)
        return DeviceArray(self._copy.pointer, shape, strides, self._array.dtype)

    def whole(self) -> DeviceArray:
        """All images."""
        return self.part(slice(0, self._array.shape[0]))

    def _fill(self, copy: Memory, images: slice, pixels: slice) -> None:
        _, channels, *size = self._array.shape
        struct = conv_params.ChannelsLast(
            source=self._array.strides,
            size=tuple(size),
            first_image=images.start,
            images=images.stop - images.start,
            channels=channels,
            first_pixel=pixels.start,
            pixels=pixels.stop - pixels.start,
        )
        pointers = (self._array.pointer, copy.pointer)
        shared = TRANSPOSE_TILE * (TRANSPOSE_TILE + 1) * self._call.itemsize
        items = struct.images * channels * struct.pixels
        self._call.launch("channels_last", items, pointers, struct, shared_bytes=shared)


def input_images(call: Call, chunks: list[Chunk]) -> ChannelsLast:
    """The input of a call, for kernels that sample the images of one chunk at a time."""
    pixels = max(chunk.count for chunk in chunks) * call.g.in_pixels
    return ChannelsLast(call, call.operands.input, pixels, dense=False)


def needs_no_copy(call: Call, array: DeviceArray, *, dense: bool) -> bool:
    """Whether kernels can read an array as channels-last images without a copy.

    Channels must be contiguous. If a thread loads several channels at a time, each vector must
    begin at a multiple of 16 bytes.
    """
    strides, vector = array.strides, call.variant.vector
    pointer_aligned = array.pointer % (vector * call.itemsize) == 0
    if dense:
        wanted = _channels_last_strides(array.shape)
        return pointer_aligned and _same_layout(array.shape, strides, wanted)
    strides_aligned = all(stride % vector == 0 for stride in (strides[0], *strides[2:]))
    contiguous = strides[1] == 1 or array.shape[1] == 1
    return contiguous and strides_aligned and pointer_aligned


def _channels_last_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of dense channels-last images of shape (images, C, *size)."""
    _, channels, *size = shape
    by_axis = [channels * prod(size[a + 1 :]) for a in range(len(size))]
    return (channels * prod(size), 1, *by_axis)


def _same_layout(shape: tuple[int, ...], strides: tuple[int, ...], others: tuple[int, ...]) -> bool:
    """Whether strides are equal along all axes longer than 1."""
    return all(
        size == 1 or stride == other
        for size, stride, other in zip(shape, strides, others, strict=True)
    )


def pack_weight(
    call: Call, weight: DeviceArray | None = None, bias: DeviceArray | None = None
) -> Memory:
    """Pack a weight, by default that of the call, as (O, ld_columns): taps, channels, then bias."""
    if weight is None:
        weight, bias = call.operands.weight, call.operands.bias
    elements = call.g.out_channels * call.ld_columns
    packed = call.allocate(elements)
    struct = conv_params.PackWeight(
        problem=call.problem,
        weight=call.strides_of(weight),
        bias_stride=0 if bias is None else bias.strides[0],
        ld_columns=call.ld_columns,
    )
    pointers = (pointer_of(weight), pointer_of(bias), packed.pointer)
    call.launch("pack_weight", elements, pointers, struct)
    return packed


def unpack_weight(
    call: Call, packed: Memory, grad_weight: DeviceArray | None, grad_bias: DeviceArray | None
) -> None:
    """Round the gradient of the packed weight; write it to the gradients of weight and bias."""
    g = call.g
    items = g.out_channels * max(1, g.taps * (g.channels // g.groups))
    pointers = (packed.pointer, pointer_of(grad_weight), pointer_of(grad_bias))
    struct = conv_params.UnpackWeight(call.problem, call.ld_columns)
    call.launch("unpack_weight", items, pointers, struct)


def unpack_input(call: Call, images: Memory, grad_input: DeviceArray, chunk: Chunk) -> None:
    """Round the gradient of a chunk's channels-last images; write it to the input's gradient."""
    g = call.g
    struct = conv_params.ChannelsFirst(
        first_image=chunk.images.start,
        images=chunk.count,
        channels=g.channels,
        pixels=g.in_pixels,
    )
    items = chunk.count * g.channels * g.in_pixels
    shared = TRANSPOSE_TILE * (TRANSPOSE_TILE + 1) * call.variant.acc_itemsize
    pointers = (images.pointer, grad_input.pointer)
    call.launch("channels_first", items, pointers, struct, shared_bytes=shared)
