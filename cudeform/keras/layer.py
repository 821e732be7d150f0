"""The layer: its weights, its call, its shapes and its config."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import keras
from keras import activations, constraints, initializers, ops, regularizers

from cudeform.settings import Ints, as_ints

from .convolution import BACKEND, convolve_first, convolve_last, same_padding

SETTINGS = (
    "filters",
    "kernel_size",
    "strides",
    "padding",
    "data_format",
    "dilation_rate",
    "groups",
    "offset_groups",
    "modulated",
    "use_bias",
)


@keras.saving.register_keras_serializable(package="cudeform")
class DeformConv2D(keras.layers.Layer):  # type: ignore[misc]
    """DCNv2, or DCNv1 if not ``modulated``, with the arguments of ``keras.layers.Conv2D``.

    A branch, which is a convolution of the same sizes, predicts offsets, and masks if
    ``modulated``, from the input. Its weights are initially zero, so no tap is displaced, and the
    mask, which is a sigmoid, is one half. The initial output is half of that of a ``Conv2D`` with
    the same kernel. Called with a list, ``layer([inputs, offset])`` or ``layer([inputs, offset,
    mask])``, the layer predicts nothing, and uses the mask without a sigmoid.

    The weights are ``kernel`` (KH, KW, C/groups, O) and ``bias`` (O,), as in ``Conv2D``, and
    ``offset_kernel`` (KH, KW, C, predicted) and ``offset_bias`` of the branch. The branch predicts
    (dy, dx) of each tap of each offset group, in pixels, then the masks.

    Args:
        filters, kernel_size, strides, padding, data_format, dilation_rate, groups: as for
            ``Conv2D``; "same" follows TensorFlow's rule for any stride and backend.
        offset_groups: groups of channels that share offsets.
        modulated: whether the branch predicts masks.
        activation, use_bias, kernel_initializer, bias_initializer: as for ``Conv2D``.
        offset_initializer: initializer of ``offset_kernel``.
        kernel_regularizer, bias_regularizer, activity_regularizer, kernel_constraint,
            bias_constraint: as for ``Conv2D``.

    Inputs and outputs are (N, H, W, C), or (N, C, H, W) with ``data_format="channels_first"``;
    offset and mask of a list have 2*offset_groups*KH*KW and offset_groups*KH*KW channels, at the
    same axis.

    Raises:
        ValueError: sizes do not fit, or ``padding="same"`` is combined with strides and the size
            of the input is unknown.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: Ints,
        strides: Ints = (1, 1),
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: Ints = (1, 1),
        groups: int = 1,
        offset_groups: int = 1,
        modulated: bool = True,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        offset_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        """Keep the settings; ``build`` makes the weights."""
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        self.filters, self.groups = filters, groups
        self.offset_groups, self.modulated, self.use_bias = offset_groups, modulated, use_bias
        self.kernel_size = as_ints("kernel_size", kernel_size, 1, 2)
        self.strides = as_ints("strides", strides, 1, 2)
        self.dilation_rate = as_ints("dilation_rate", dilation_rate, 1, 2)
        self.padding = _one_of("padding", str(padding).lower(), ("valid", "same"))
        data_format = data_format or keras.config.image_data_format()
        formats = ("channels_last", "channels_first")
        self.data_format = _one_of("data_format", data_format, formats)
        self.activation = activations.get(activation)
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.offset_initializer = initializers.get(offset_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.bias_regularizer = regularizers.get(bias_regularizer)
        self.kernel_constraint = constraints.get(kernel_constraint)
        self.bias_constraint = constraints.get(bias_constraint)
        if filters % groups:
            raise ValueError(f"groups = {groups} must divide filters, got {filters}")
        if BACKEND == "tensorflow":
            self.supports_jit = False  # XLA cannot call Python there

    @property
    def channels_last(self) -> bool:
        """Whether the channels are the last axis."""
        return bool(self.data_format == "channels_last")

    @property
    def displaced(self) -> int:
        """Channels of the offset."""
        return 2 * self.offset_groups * prod(self.kernel_size)

    def build(self, input_shape: Any) -> None:
        """Make the weights for a shape of the input, or for the shapes of a list."""
        shape, predicts = _first(input_shape), not _is_list(input_shape)
        axis = 3 if self.channels_last else 1
        channels = shape[axis]
        if channels is None:
            raise ValueError(f"the channels of the input must be known, got shape {shape}")
        for name in ("groups", "offset_groups"):
            if channels % getattr(self, name):
                value = getattr(self, name)
                raise ValueError(
                    f"{name} = {value} must divide the channels of the input, got {channels}"
                )
        self.kernel = self.add_weight(
            name="kernel",
            shape=(*self.kernel_size, channels // self.groups, self.filters),
            initializer=self.kernel_initializer,
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias",
                shape=(self.filters,),
                initializer=self.bias_initializer,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
            )
        if predicts:
            predicted = self.displaced // 2 * (3 if self.modulated else 2)
            self.offset_kernel = self.add_weight(
                name="offset_kernel",
                shape=(*self.kernel_size, channels, predicted),
                initializer=self.offset_initializer,
            )
            self.offset_bias = self.add_weight(
                name="offset_bias", shape=(predicted,), initializer="zeros"
            )
            self.input_spec = keras.layers.InputSpec(ndim=4, axes={axis: channels})
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Convolve images, or the images of a list with its offset and mask."""
        offset, mask = inputs[1:] + [None] * (3 - len(inputs)) if _is_list(inputs) else (None, None)
        images = _first(inputs)
        padding = self._padding(images.shape)
        if offset is None:
            offset, mask = self._predict(images)
        kernel = ops.convert_to_tensor(self.kernel)
        bias = None if self.bias is None else ops.convert_to_tensor(self.bias)
        settings = self.strides, padding, self.dilation_rate
        run = convolve_last if self.channels_last else convolve_first
        return self.activation(run(images, offset, kernel, bias, *settings, mask))

    def _predict(self, images: Any) -> tuple[Any, Any]:
        """The offset and the mask that the branch predicts."""
        predicted = ops.conv(
            images,
            self.offset_kernel,
            strides=self.strides,
            padding=self.padding,
            data_format=self.data_format,
            dilation_rate=self.dilation_rate,
        )
        axis = 3 if self.channels_last else 1
        shape = [-1 if each == axis else 1 for each in range(4)]
        predicted = predicted + ops.reshape(self.offset_bias, shape)
        if not self.modulated:
            return predicted, None
        offset, mask = ops.split(predicted, [self.displaced], axis=axis)
        return offset, ops.sigmoid(mask)

    def _padding(self, shape: Sequence[int | None]) -> tuple[tuple[int, int], ...]:
        """The padding of each axis, ((top, bottom), (left, right))."""
        if self.padding == "valid":
            return (0, 0), (0, 0)
        sizes = self._sizes(shape)
        if None in sizes and self.strides != (1, 1):
            raise ValueError(
                'padding="same" with strides needs an input whose height and width are known, got '
                f"shape {tuple(shape)}; pad the images, or give keras.Input their size"
            )
        axes = zip(sizes, self.kernel_size, self.strides, self.dilation_rate, strict=True)
        return tuple(same_padding(*axis) for axis in axes)

    def _sizes(self, shape: Sequence[int | None]) -> Sequence[int | None]:
        return shape[1:3] if self.channels_last else shape[2:4]

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """The output's shape; a size is None if it is unknown."""
        shape = _first(input_shape)
        axes = zip(
            self._sizes(shape), self.kernel_size, self.strides, self.dilation_rate, strict=True
        )
        if self.padding == "same":
            out = [None if size is None else -(-size // s) for size, _, s, _ in axes]
        else:
            out = [
                None if size is None else (size - d * (k - 1) - 1) // s + 1
                for size, k, s, d in axes
            ]
        return (
            (shape[0], *out, self.filters) if self.channels_last else (shape[0], self.filters, *out)
        )

    def compute_output_spec(self, inputs: Any) -> Any:
        """The output's shape and dtype, without running the layer."""
        shapes = [each.shape for each in inputs] if _is_list(inputs) else inputs.shape
        return keras.KerasTensor(self.compute_output_shape(shapes), dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        config: dict[str, Any] = super().get_config()
        config |= {name: getattr(self, name) for name in SETTINGS}
        for name, serialize in _SERIALIZED.items():
            config[name] = serialize(getattr(self, name))
        return config


_SERIALIZED: Mapping[str, Callable[[Any], Any]] = {
    "activation": activations.serialize,
    "kernel_initializer": initializers.serialize,
    "bias_initializer": initializers.serialize,
    "offset_initializer": initializers.serialize,
    "kernel_regularizer": regularizers.serialize,
    "bias_regularizer": regularizers.serialize,
    "activity_regularizer": regularizers.serialize,
    "kernel_constraint": constraints.serialize,
    "bias_constraint": constraints.serialize,
}


def _is_list(inputs: Any) -> bool:
    """Whether an argument is a list of inputs, or of shapes."""
    if not isinstance(inputs, (list, tuple)) or not inputs:
        return False
    return not (inputs[0] is None or isinstance(inputs[0], int))


def _first(inputs: Any) -> Any:
    return inputs[0] if _is_list(inputs) else inputs


def _one_of(name: str, value: str, values: tuple[str, ...]) -> str:
    if value not in values:
        raise ValueError(f"{name} must be one of {values}, got {value!r}")
    return value
