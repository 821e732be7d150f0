"""Layers of Keras 3 for the backends tensorflow, jax and torch: convolution and attention.

    >>> import keras
    >>> from cudeform.keras import DeformConv2D
    >>> layer = DeformConv2D(8, 3, padding="same")
    >>> layer(keras.ops.ones((1, 16, 16, 3))).shape == (1, 16, 16, 8)
    True

* Import this module before ``keras.models.load_model``, so that Keras finds the classes.
* Under TensorFlow, XLA does not compile a model with these layers (``supports_jit`` is False), and
  only the same process can run what ``Model.export`` writes. Save ``.keras`` files instead.
* ``cudeform.options`` are read when a call is traced, so set them before ``fit``.
"""

from __future__ import annotations

from .attention import MultiScaleDeformableAttention
from .convolution import BACKEND
from .layer import DeformConv2D

__all__ = ["BACKEND", "DeformConv2D", "MultiScaleDeformableAttention"]
