"""Sums of arrays, for operators that are composed of several calls of the engine.

``OnDevice`` has the engine's functions without their first argument, a device.
"""

from __future__ import annotations

from functools import partial
from math import prod

from cudeform.arrays import DeviceArray, Gradients, Operands
from cudeform.geometry import Geometry
from cudeform.gpu.algorithms.sums import forward as sums_forward
from cudeform.gpu.algorithms.sums_backward import backward as sums_backward
from cudeform.gpu.algorithms.sums_tangents import double_backward as sums_double_backward
from cudeform.gpu.algorithms.sums_tangents import jvp as sums_jvp
from cudeform.gpu.backward import backward
from cudeform.gpu.call import BLOCKS_PER_MULTIPROCESSOR, THREADS, zero_arrays
from cudeform.gpu.device_api import conv_params
from cudeform.gpu.device_api.commands import KernelLaunch
from cudeform.gpu.device_api.kernel_source import ITEMSIZE, Variant, kernel
from cudeform.gpu.device_api.protocol import Device, Memory
from cudeform.gpu.forward import forward
from cudeform.gpu.second_order import double_backward
from cudeform.gpu.variants import MAX_ELEMENTS_32, MAX_THREADS
from cudeform.options import Options


class OnDevice:
    """The functions of the engine on one device, which ``ComposedEngine`` needs."""

    def __init__(self, device: Device) -> None:
        """Fix the device."""
        self.forward = partial(forward, device)
        self.backward = partial(backward, device)
        self.double_backward = partial(double_backward, device)
        self.sums_forward = partial(sums_forward, device)
        self.sums_backward = partial(sums_backward, device)
        self.sums_jvp = partial(sums_jvp, device)
        self.sums_double_backward = partial(sums_double_backward, device)


class Arithmetic:
    """The sums that a composition needs, on arrays of a device; it owns the temporary arrays."""

    def __init__(self, device: Device) -> None:
        """Fix the device."""
        self._device = device
        self._temporary: list[Memory] = []

    def blank(self, shape: tuple[int, ...], like: DeviceArray) -> DeviceArray:
        """A broadcast zero, for an image on which no result depends."""
        return DeviceArray(like.pointer, shape, (0,) * len(shape), like.dtype)

    def empty_like(self, array: DeviceArray) -> DeviceArray:
        """A new contiguous array of the same shape and dtype."""
        strides = tuple(prod(array.shape[axis + 1 :]) for axis in range(len(array.shape)))
        memory = self._device.allocate(max(1, prod(array.shape)) * ITEMSIZE[array.dtype])
        self._temporary.append(memory)
        return DeviceArray(memory.pointer, array.shape, strides, array.dtype)

    def fill_zero(self, array: DeviceArray) -> None:
        """Set a contiguous array to 0."""
        zero_arrays(self._device, [array])

    def add(self, target: DeviceArray, other: DeviceArray) -> None:
        """Add another array to ``target``, both contiguous."""
        self._add(target, other, None)

    def add_bias(self, images: DeviceArray, bias: DeviceArray) -> None:
        """Add a number for each channel to contiguous images (N, C, *size)."""
        self._add(images, None, bias)

    def sum_channels(self, images: DeviceArray, sums: DeviceArray) -> None:
        """Write the sum of each channel of images (N, C, *size).

        It is computed as the gradient of the bias of a convolution with these images as
        ``grad_output``.
        """
        batch, channels, *out = images.shape
        ones = (1,) * len(out)
        g = Geometry(
            batch=batch,
            channels=1,
            size=ones,
            out_channels=channels,
            kernel=ones,
            out=tuple(out),
            stride=ones,
            pad_begin=(0,) * len(out),
            pad_end=(0,) * len(out),
            dilation=ones,
            groups=1,
            offset_groups=1,
        )
        shapes = g.input_shape, g.offset_shape, g.weight_shape, g.bias_shape
        operands = Operands(*(self.blank(shape, images) for shape in shapes))
        backward(self._device, operands, g, Options(), images, Gradients(bias=sums))

    def _add(
        self, target: DeviceArray, other: DeviceArray | None, bias: DeviceArray | None
    ) -> None:
        items = prod(target.shape)
        if items == 0:
            return
        struct = conv_params.AddArrays(
            channels=target.shape[1] if len(target.shape) > 1 else 1,
            pixels=prod(target.shape[2:]),
            bias_stride=0 if bias is None else bias.strides[0],
            items=items,
        )
        bits = 32 if items <= MAX_ELEMENTS_32 else 64
        text = kernel("add_arrays", Variant(target.dtype, bits, 1))
        most = self._device.multiprocessors * BLOCKS_PER_MULTIPROCESSOR
        blocks = min(-(-items // THREADS), most, MAX_THREADS // THREADS)
        pointers = [
            target.pointer,
            0 if other is None else other.pointer,
            0 if bias is None else bias.pointer,
        ]
        launch = KernelLaunch(text, blocks, THREADS, struct.packed(bits, 2))
        self._device.queue(launch, pointers)
