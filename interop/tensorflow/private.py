"""Access to private names of TensorFlow, for facts about a call that have no public name.

No other module uses them, and tests/interop/tensorflow/test_private.py covers each of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import forwardprop_util, record
from tensorflow.python.framework import config
from tensorflow.python.ops import control_flow_util


def recorded(tensors: Mapping[str, Any]) -> list[str]:
    """Names of the eager tensors that a GradientTape of this thread watches."""
    return [name for name, tensor in tensors.items() if record.should_record_backprop([tensor])]


def has_tangents(tensors: Mapping[str, Any]) -> bool:
    """Whether a ForwardAccumulator of this thread watches one of the tensors."""
    return bool(forwardprop_util.pack_tangents(list(tensors.values())).tangents)


def compiled_by_xla() -> bool:
    """Whether the function that is being traced has ``jit_compile=True``."""
    graph = tf.compat.v1.get_default_graph()
    return bool(control_flow_util.GraphOrParentsInXlaContext(graph))


def is_deterministic() -> bool:
    """Whether ``tf.config.experimental.enable_op_determinism`` was called."""
    return bool(config.is_op_determinism_enabled())
