"""The layer: its weights, its call, its shapes and its config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import keras
from keras import activations, constraints, initializers, ops, regularizers

from cudeform.settings import Ints, as_ints

from .convolution import BACKEND, convolve_first, convolve_last
from .sizes import Sizes, check_shape, inputs_of

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
        ValueError: sizes do not fit, a list has another length than 2 or 3, or ``padding="same"``
            is combined with strides and the size of the input is unknown.
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
        self._sizes = Sizes(
            self.kernel_size, self.strides, self.dilation_rate, self.padding, self.channels_last
        )
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
        shape, offset, _ = inputs_of(input_shape)
        channels = self._sizes.channels(shape)
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
        self.offset_kernel = None
        if offset is None:
            predicted = self.displaced // 2 * (3 if self.modulated else 2)
            self.offset_kernel = self.add_weight(
                name="offset_kernel",
                shape=(*self.kernel_size, channels, predicted),
                initializer=self.offset_initializer,
            )
            self.offset_bias = self.add_weight(
                name="offset_bias", shape=(predicted,), initializer="zeros"
            )
            self.input_spec = keras.layers.InputSpec(
                ndim=4, axes={self._sizes.channel_axis: channels}
            )
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Convolve images, or the images of a list with its offset and mask."""
        images, offset, mask = given = inputs_of(inputs)
        self.compute_output_shape(given.shapes())  # checks the known sizes
        padding = self._sizes.pads(images.shape)
        if offset is None:
            offset, mask = self._predict(images)
        kernel = ops.convert_to_tensor(self.kernel)
        bias = None if self.bias is None else ops.convert_to_tensor(self.bias)
        settings = self.strides, padding, self.dilation_rate
        run = convolve_last if self.channels_last else convolve_first
        return self.activation(run(images, offset, kernel, bias, *settings, mask))

    def _predict(self, images: Any) -> tuple[Any, Any]:
        """The offset and the mask that the branch predicts."""
        if self.offset_kernel is None:
            raise ValueError(
                f"{self.name} was built for a list, so it predicts no offsets: call it with "
                "[inputs, offset], or make another layer"
            )
        predicted = ops.conv(
            images,
            self.offset_kernel,
            strides=self.strides,
            padding=self.padding,
            data_format=self.data_format,
            dilation_rate=self.dilation_rate,
        )
        axis = self._sizes.channel_axis
        shape = [-1 if each == axis else 1 for each in range(4)]
        predicted = predicted + ops.reshape(self.offset_bias, shape)
        if not self.modulated:
            return predicted, None
        offset, mask = ops.split(predicted, [self.displaced], axis=axis)
        return offset, ops.sigmoid(mask)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """The output's shape; a size is None if it is unknown.

        Raises:
            ValueError: the input is too small, or the offset or the mask of a list does not fit.
        """
        images, offset, mask = inputs_of(input_shape)
        output = self._sizes.output_shape(images, self.filters)
        check_shape("offset", offset, self._sizes.output_shape(images, self.displaced))
        check_shape("mask", mask, self._sizes.output_shape(images, self.displaced // 2))
        return output

    def compute_output_spec(self, inputs: Any) -> Any:
        """The output's shape and dtype, without running the layer."""
        shape = self.compute_output_shape(inputs_of(inputs).shapes())
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

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


def _one_of(name: str, value: str, values: tuple[str, ...]) -> str:
    if value not in values:
        raise ValueError(f"{name} must be one of {values}, got {value!r}")
    return value
