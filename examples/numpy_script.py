"""Deformable convolution and its gradients without a framework: NumPy, or CuPy on a GPU."""

import numpy as np

import cudeform

try:
    import cupy as xp

    xp.cuda.runtime.getDeviceCount()
except Exception:  # without CuPy, a driver or a GPU: each raises another type
    xp = np

rng = np.random.default_rng(0)
image = xp.asarray(rng.standard_normal((2, 16, 48, 64), dtype="float32"))
weight = xp.asarray(rng.standard_normal((32, 16, 3, 3), dtype="float32"))
offset = xp.asarray(rng.normal(0, 2, (2, 2 * 3 * 3, 48, 64)).astype("float32"))  # dy, dx, pixels
mask = xp.asarray(rng.random((2, 3 * 3, 48, 64), dtype="float32"))

output = cudeform.deform_conv2d(image, offset, weight, padding=1, mask=mask)
print(type(output).__module__, output.shape, output.dtype)

# The first argument is the gradient of a loss with respect to the output.
grads = cudeform.deform_conv2d_backward(output, image, offset, weight, padding=1, mask=mask)
print({name: grad.shape for name, grad in grads._asdict().items() if grad is not None})

print(cudeform.offset_stats(offset, image.shape[2:], kernel_size=3, padding=1))
