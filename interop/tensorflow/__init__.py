"""The adapter for tensors and variables of TensorFlow, eager and in ``tf.function``.

    >>> import cudeform, tensorflow as tf
    >>> @tf.function
    ... def loss(offset, image, weight):
    ...     return tf.reduce_sum(cudeform.deform_conv2d(image, offset, weight, padding=1))

* Eager tensors are read, and results returned, without a copy. In a ``tf.function`` a call is a
  node that runs Python, and takes the GIL whenever the engine does not compute.
* Gradients by ``tf.GradientTape``, and by a tape over a tape, have the same bits as those of
  ``cudeform.deform_conv2d_backward`` and ``cudeform.deform_conv2d_double_backward``.
  ``tf.autodiff.ForwardAccumulator`` works outside of ``tf.function`` and around one, but neither
  inside of one nor around a tape.
* Unknown batches and sizes are allowed. When TensorFlow traces a call, it checks dtypes and known
  sizes and reads ``cudeform.options``, so a traced function keeps these options.
  ``tf.config.experimental.enable_op_determinism`` makes calls deterministic.
* :func:`deform_conv1d`, :func:`deform_conv2d` and :func:`deform_conv3d` of this module take
  channels last, (N, H, W, C) in two dimensions, without transposes.
* ``jit_compile=True`` is refused, since XLA cannot call Python.
* A SavedModel can be written without an error, but it runs only in the process that wrote it;
  another process fails with ``Could not find callback with key=pyfunc_... in the registry``. Save
  weights, in a ``.keras`` file or a checkpoint, and build the model again.
* Tensors on a GPU are read through CuPy, and each call synchronises with the GPU twice. This has
  not run on a GPU yet.
* TensorFlow 2.21 or newer.
"""

from __future__ import annotations

import tensorflow as tf

MINIMUM_TENSORFLOW = (2, 21)  # the oldest version with which the tests were run

# This check precedes the imports of the other modules, which fail with an older TensorFlow.
if tuple(map(int, tf.__version__.split(".")[:2])) < MINIMUM_TENSORFLOW:
    raise ImportError(
        f"cudeform takes tensors of tensorflow {'.'.join(map(str, MINIMUM_TENSORFLOW))} or newer, "
        f"this is {tf.__version__}; pip install --upgrade tensorflow"
    )

from .adapter import ADAPTER  # noqa: E402
from .functional import deform_conv1d, deform_conv2d, deform_conv3d  # noqa: E402

__all__ = ["ADAPTER", "deform_conv1d", "deform_conv2d", "deform_conv3d"]
