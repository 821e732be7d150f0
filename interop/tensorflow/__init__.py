"""The adapter for tensors and variables of TensorFlow, eager and in ``tf.function``.

    >>> import cudeform, tensorflow as tf
    >>> @tf.function
    ... def loss(offset, image, weight):
    ...     return tf.reduce_sum(cudeform.deform_conv2d(image, offset, weight, padding=1))

* Eager tensors are read where they are, and results are lent to TensorFlow without a copy. In a
  ``tf.function`` a call is a node that runs Python, so it keeps the GIL between the engine's parts.
* Gradients by ``tf.GradientTape``, and by a tape over a tape, are to the last bit those of
  ``cudeform.deform_conv2d_backward`` and ``cudeform.deform_conv2d_double_backward``.
  ``tf.autodiff.ForwardAccumulator`` works outside of ``tf.function`` only, and not around a tape.
* Unknown batches and sizes are allowed. Dtypes and known sizes are checked, and
  ``cudeform.options`` read, when TensorFlow traces the call: a function keeps the options that it
  was traced with. ``tf.config.experimental.enable_op_determinism`` makes calls deterministic.
* :func:`deform_conv2d` of this module takes channels last, (N, H, W, C), without transposes.
* ``jit_compile=True`` is refused, since XLA cannot call Python.
* A SavedModel is written without complaint but runs only in the process that wrote it; another one
  ends with ``Could not find callback with key=pyfunc_... in the registry``. Save weights, in a
  ``.keras`` file or a checkpoint, and build the model again.
* Tensors on a GPU are read by CuPy, and each call waits for the GPU twice. No GPU has run it yet.
* TensorFlow 2.21 or newer.
"""

from __future__ import annotations

import tensorflow as tf

MINIMUM_TENSORFLOW = (2, 21)  # the oldest that the tests were run with

# Before the other modules of this folder, which need names of that version.
if tuple(map(int, tf.__version__.split(".")[:2])) < MINIMUM_TENSORFLOW:
    raise ImportError(
        f"cudeform takes tensors of tensorflow {'.'.join(map(str, MINIMUM_TENSORFLOW))} or newer, "
        f"this is {tf.__version__}; pip install --upgrade tensorflow"
    )

from .adapter import ADAPTER  # noqa: E402
from .functional import deform_conv2d  # noqa: E402

__all__ = ["ADAPTER", "deform_conv2d"]
