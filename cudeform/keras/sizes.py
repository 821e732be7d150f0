"""The arguments and the sizes of a call of the layer; a size is None if it is unknown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

Size = int | None
Shape = tuple[Size, ...]


class Inputs(NamedTuple):
    """The arguments of a call, or their shapes."""

    images: Any
    offset: Any = None
    mask: Any = None

    def shapes(self) -> Inputs:
        """The shapes of arrays; a size that is a compiler's symbol is unknown."""
        return Inputs(*(None if each is None else tuple(map(_known, each.shape)) for each in self))


def inputs_of(inputs: Any) -> Inputs:
    """The arguments of a call from an array or a list, or from a shape or a list of shapes.

    Raises:
        ValueError: a list of another length than 2 or 3.
    """
    if isinstance(inputs, Inputs):
        return inputs
    if not isinstance(inputs, (list, tuple)) or _is_shape(inputs):
        return Inputs(inputs)
    if len(inputs) not in (2, 3):
        raise ValueError(
            "a list must be [inputs, offset] or [inputs, offset, mask], got a list of length "
            f"{len(inputs)}"
        )
    return Inputs(*inputs)


def _known(size: Any) -> Size:
    return size if isinstance(size, int) else None


def _is_shape(inputs: Sequence[Any]) -> bool:
    return bool(inputs) and (inputs[0] is None or isinstance(inputs[0], int))


@dataclass(frozen=True)
class Sizes:
    """The arguments of a layer that determine the size of its output.

    Attributes:
        kernel_size, strides, dilation_rate: one integer per axis.
        padding: "same" or "valid".
        channels_last: whether the channels are the last axis.
    """

    kernel_size: tuple[int, ...]
    strides: tuple[int, ...]
    dilation_rate: tuple[int, ...]
    padding: str
    channels_last: bool

    @property
    def channel_axis(self) -> int:
        """The axis of the channels."""
        return 3 if self.channels_last else 1

    def channels(self, shape: Shape) -> Size:
        """The channels of the input; checks its rank."""
        if len(shape) != 4:
            axes = "(N, H, W, C)" if self.channels_last else "(N, C, H, W)"
            raise ValueError(f"the input must have shape {axes}, got {tuple(shape)}")
        return shape[self.channel_axis]

    def pads(self, shape: Shape) -> tuple[tuple[int, int], ...]:
        """The padding of each axis, ((top, bottom), (left, right))."""
        if self.padding == "valid":
            return (0, 0), (0, 0)
        if None in self._image(shape) and self.strides != (1, 1):
            raise ValueError(
                'padding="same" with strides needs an input whose height and width are known, got '
                f"shape {tuple(shape)}; pad the images, or give keras.Input their size"
            )
        return tuple(same_padding(*axis) for axis in self._axes(shape))

    def output_shape(self, shape: Shape, channels: int) -> Shape:
        """The shape of an array over the positions of an input.

        Raises:
            ValueError: the input has no four axes, or is too small.
        """
        self.channels(shape)
        same = self.padding == "same"
        out = [output_size(*axis, same=same) for axis in self._axes(shape)]
        if any(size is not None and size < 1 for size in out):
            raise ValueError(
                f"the input is too small for kernel_size = {self.kernel_size}, dilation_rate = "
                f"{self.dilation_rate} and padding = {self.padding!r}: its shape is "
                f"{tuple(shape)}, and the output would have {out[0]} x {out[1]} positions"
            )
        return (shape[0], *out, channels) if self.channels_last else (shape[0], channels, *out)

    def _axes(self, shape: Shape) -> Any:
        per_axis = self.kernel_size, self.strides, self.dilation_rate
        return zip(self._image(shape), *per_axis, strict=True)

    def _image(self, shape: Shape) -> Shape:
        return tuple(shape[1:3] if self.channels_last else shape[2:4])


def same_padding(size: Size, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """Begin and end of TensorFlow's padding "same", for ``ceil(size / stride)`` positions."""
    span = dilation * (kernel - 1)
    last = 0 if size is None else -(-size // stride) * stride - stride - size + 1
    total = max(last + span, 0)
    return total // 2, total - total // 2


def output_size(size: Size, kernel: int, stride: int, dilation: int, *, same: bool) -> Size:
    """The number of positions, less than 1 if the image is too small."""
    if size is None:
        return None
    if same:
        return -(-size // stride)
    return (size - dilation * (kernel - 1) - 1) // stride + 1


def check_shape(name: str, shape: Shape | None, expected: Shape) -> None:
    """Check the known sizes of an argument that may be absent."""
    if shape is None or (len(shape) == len(expected) and all(map(_may_agree, shape, expected))):
        return
    raise ValueError(f"{name} must have shape {expected}, got {tuple(shape)}")


def _may_agree(one: Size, other: Size) -> bool:
    return one == other or None in (one, other)
