"""The adapter for PyTorch: differentiable operators, and layers that use them.

``cudeform``'s own functions accept CPU and CUDA tensors, without copies. Calls with CUDA tensors
run in torch's current stream and use torch's allocator.

    >>> import torch
    >>> from cudeform.interop.torch import ModulatedDeformConv2dPack
    >>> layer = ModulatedDeformConv2dPack(3, 8, kernel_size=3, padding=1)
    >>> layer(torch.randn(1, 3, 16, 16)).shape
    torch.Size([1, 8, 16, 16])
"""

from __future__ import annotations

from .adapter import ADAPTER as ADAPTER
from .convert import replace_mmcv, replace_torchvision
from .functional import (
    deform_conv2d,
    deform_conv2d_backward,
    deform_conv2d_double_backward,
    deform_conv2d_jvp,
)
from .layers.convolutions import (
    DeformConv1d,
    DeformConv3d,
    DeformConvTranspose1d,
    DeformConvTranspose2d,
    DeformConvTranspose3d,
)
from .layers.packs import (
    DeformConv1dPack,
    DeformConv3dPack,
    DeformConvTranspose1dPack,
    DeformConvTranspose2dPack,
    DeformConvTranspose3dPack,
)
from .nn import DeformConv2d, DeformConv2dPack, ModulatedDeformConv2dPack
from .onnx import export_onnx, onnx_translations
from .sums.attention import MultiScaleDeformableAttention
from .sums.dcn import DCNv3, DCNv4
from .sums.hugging_face import replace_transformers

__all__ = [
    "DCNv3",
    "DCNv4",
    "DeformConv1d",
    "DeformConv1dPack",
    "DeformConv2d",
    "DeformConv2dPack",
    "DeformConv3d",
    "DeformConv3dPack",
    "DeformConvTranspose1d",
    "DeformConvTranspose1dPack",
    "DeformConvTranspose2d",
    "DeformConvTranspose2dPack",
    "DeformConvTranspose3d",
    "DeformConvTranspose3dPack",
    "ModulatedDeformConv2dPack",
    "MultiScaleDeformableAttention",
    "deform_conv2d",
    "deform_conv2d_backward",
    "deform_conv2d_double_backward",
    "deform_conv2d_jvp",
    "export_onnx",
    "onnx_translations",
    "replace_mmcv",
    "replace_torchvision",
    "replace_transformers",
]
