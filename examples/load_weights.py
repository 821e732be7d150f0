"""Weights of torchvision's and mmcv's layers, loaded by name into cudeform's.

A state dict of ``torchvision.ops.DeformConv2d`` has the keys ``weight`` and ``bias``; that of
mmcv's
``ModulatedDeformConv2dPack`` also has ``conv_offset.weight`` and ``conv_offset.bias``. cudeform's
layers have the same keys. Neither library needs to be installed to read its file.
"""

import io

import torch

from cudeform.interop.torch import DeformConv2d, ModulatedDeformConv2dPack

torch.manual_seed(0)
image = torch.randn(1, 8, 20, 24)

# torchvision: a file such as its layer writes.
file = io.BytesIO()
torch.save({"weight": torch.randn(16, 8, 3, 3), "bias": torch.randn(16)}, file)
file.seek(0)
layer = DeformConv2d(8, 16, kernel_size=3, padding=1)
print("torchvision:", layer.load_state_dict(torch.load(file, weights_only=True)))
offset = torch.zeros(1, 2 * 3 * 3, 20, 24)
plain = torch.nn.functional.conv2d(image, layer.weight, layer.bias, padding=1)
assert torch.allclose(layer(image, offset), plain, atol=1e-4)  # zero offset: a convolution

# mmcv: the Pack predicts offset and mask by a convolution inside the layer.
weights = {
    "weight": torch.randn(16, 8, 3, 3),
    "bias": torch.randn(16),
    "conv_offset.weight": torch.zeros(27, 8, 3, 3),
    "conv_offset.bias": torch.zeros(27),
}
pack = ModulatedDeformConv2dPack(8, 16, kernel_size=3, padding=1)
print("mmcv:", pack.load_state_dict(weights))
half = torch.nn.functional.conv2d(image, 0.5 * pack.weight, pack.bias, padding=1)
assert torch.allclose(pack(image), half, atol=1e-4)  # zero offset, and a mask of sigmoid(0)
