"""Padding that differs between the sides: ``((top, bottom), (left, right))``.

An even kernel cannot keep the size of an image with equal padding on both sides: "same" pads one
more row and column at the end, as in PyTorch and TensorFlow. A causal layer pads only the top.
"""

import numpy as np

import cudeform

rng = np.random.default_rng(0)
image = rng.standard_normal((1, 8, 20, 24))
weight = rng.standard_normal((8, 8, 4, 4))
offset = rng.normal(0, 1, (1, 2 * 4 * 4, 20, 24))

same = cudeform.deform_conv2d(image, offset, weight, padding="same")  # ((1, 2), (1, 2))
print("same size:", same.shape)

# The same result as explicit padding, without the copy.
padded = np.pad(image, ((0, 0), (0, 0), (1, 2), (1, 2)))
assert np.allclose(same, cudeform.deform_conv2d(padded, offset, weight))

# Padding moves the taps: the first tap of output (0, 0) is at (-top, -left).
regular = np.zeros_like(offset)
causal = ((3, 0), (1, 2))
where = cudeform.sampling_locations(regular, kernel_size=4, padding=causal)
print("causal: output row 5 samples rows", where[0, 0, :, 0, 0, 5, 0].astype(int))
