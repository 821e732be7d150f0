"""Forward mode and gradients of gradients, for arrays of libraries that do not differentiate.

Tensors of PyTorch and of TensorFlow, and JAX arrays, need none of them: their libraries
differentiate.
"""

from cudeform.operators.dcnv3 import dcnv3_double_backward, dcnv3_jvp
from cudeform.operators.dcnv4 import dcnv4_double_backward, dcnv4_jvp
from cudeform.operators.deform_attn import ms_deform_attn_double_backward, ms_deform_attn_jvp
from cudeform.operators.deform_conv import deform_conv2d_double_backward, deform_conv2d_jvp
from cudeform.operators.deform_conv1d import deform_conv1d_double_backward, deform_conv1d_jvp
from cudeform.operators.deform_conv3d import deform_conv3d_double_backward, deform_conv3d_jvp
from cudeform.operators.deform_conv_transpose1d import (
    deform_conv_transpose1d_double_backward,
    deform_conv_transpose1d_jvp,
)
from cudeform.operators.deform_conv_transpose2d import (
    deform_conv_transpose2d_double_backward,
    deform_conv_transpose2d_jvp,
)
from cudeform.operators.deform_conv_transpose3d import (
    deform_conv_transpose3d_double_backward,
    deform_conv_transpose3d_jvp,
)

__all__ = [
    "dcnv3_double_backward",
    "dcnv3_jvp",
    "dcnv4_double_backward",
    "dcnv4_jvp",
    "deform_conv1d_double_backward",
    "deform_conv1d_jvp",
    "deform_conv2d_double_backward",
    "deform_conv2d_jvp",
    "deform_conv3d_double_backward",
    "deform_conv3d_jvp",
    "deform_conv_transpose1d_double_backward",
    "deform_conv_transpose1d_jvp",
    "deform_conv_transpose2d_double_backward",
    "deform_conv_transpose2d_jvp",
    "deform_conv_transpose3d_double_backward",
    "deform_conv_transpose3d_jvp",
    "ms_deform_attn_double_backward",
    "ms_deform_attn_jvp",
]
