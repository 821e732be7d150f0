"""cudeform: deformable convolution for any array.

In one, two and three dimensions, and transposed; deformable attention, DCNv3 and DCNv4.

    >>> import numpy as np, cudeform
    >>> rng = np.random.default_rng(0)
    >>> image = rng.standard_normal((1, 3, 32, 32))
    >>> offset = rng.standard_normal((1, 2 * 3 * 3, 32, 32))  # dy, dx of each tap, in pixels
    >>> weight = rng.standard_normal((8, 3, 3, 3))
    >>> cudeform.deform_conv2d(image, offset, weight, padding=1).shape
    (1, 8, 32, 32)

The result is an array of the kind that came in.
"""

from cudeform import derivatives
from cudeform.arrays import (
    AttentionDoubleGradients,
    AttentionGradients,
    DCNv3DoubleGradients,
    DCNv3Gradients,
    DCNv4DoubleGradients,
    DCNv4Gradients,
    DoubleGradients,
    Gradients,
    Tangents,
)
from cudeform.inspect import (
    OffsetStats,
    offset_stats,
    plot_attention,
    plot_displacement,
    plot_sampling,
    sampling_locations,
)
from cudeform.operators.dcnv3 import dcnv3, dcnv3_backward
from cudeform.operators.dcnv4 import dcnv4, dcnv4_backward
from cudeform.operators.deform_attn import ms_deform_attn, ms_deform_attn_backward
from cudeform.operators.deform_conv import (
    deform_conv2d,
    deform_conv2d_backward,
    deform_conv2d_double_backward,
    deform_conv2d_jvp,
)
from cudeform.operators.deform_conv1d import deform_conv1d, deform_conv1d_backward
from cudeform.operators.deform_conv3d import deform_conv3d, deform_conv3d_backward
from cudeform.operators.deform_conv_transpose1d import (
    deform_conv_transpose1d,
    deform_conv_transpose1d_backward,
)
from cudeform.operators.deform_conv_transpose2d import (
    deform_conv_transpose2d,
    deform_conv_transpose2d_backward,
)
from cudeform.operators.deform_conv_transpose3d import (
    deform_conv_transpose3d,
    deform_conv_transpose3d_backward,
)
from cudeform.options import Options, options, set_options

__version__ = "0.1.0"

__all__ = [
    "AttentionDoubleGradients",
    "AttentionGradients",
    "DCNv3DoubleGradients",
    "DCNv3Gradients",
    "DCNv4DoubleGradients",
    "DCNv4Gradients",
    "DoubleGradients",
    "Gradients",
    "OffsetStats",
    "Options",
    "Tangents",
    "dcnv3",
    "dcnv3_backward",
    "dcnv4",
    "dcnv4_backward",
    "deform_conv1d",
    "deform_conv1d_backward",
    "deform_conv2d",
    "deform_conv2d_backward",
    "deform_conv2d_double_backward",
    "deform_conv2d_jvp",
    "deform_conv3d",
    "deform_conv3d_backward",
    "deform_conv_transpose1d",
    "deform_conv_transpose1d_backward",
    "deform_conv_transpose2d",
    "deform_conv_transpose2d_backward",
    "deform_conv_transpose3d",
    "deform_conv_transpose3d_backward",
    "derivatives",
    "ms_deform_attn",
    "ms_deform_attn_backward",
    "offset_stats",
    "options",
    "plot_attention",
    "plot_displacement",
    "plot_sampling",
    "sampling_locations",
    "set_options",
]
