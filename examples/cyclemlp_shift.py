"""CycleMLP's layer: a 1x1 deformable convolution whose channels sample different neighbours.

Each channel is its own offset group and has a constant integer offset, so sampling shifts the
channel and fills the gap with zeros. The offset is the same at all positions: a broadcast array,
which takes no memory and is read as it is.
"""

from time import perf_counter

import numpy as np

import cudeform

CHANNELS, REACH, SIZE = 64, 7, 56

rng = np.random.default_rng(0)
image = rng.standard_normal((4, CHANNELS, SIZE, SIZE), dtype="float32")
weight = rng.standard_normal((CHANNELS, CHANNELS, 1, 1), dtype="float32")
shifts = np.arange(CHANNELS) % REACH - REACH // 2  # -3 ... 3, repeated

one = np.zeros((1, CHANNELS, 2, 1, 1), dtype="float32")
one[0, :, 1, 0, 0] = shifts  # dx
offset = np.broadcast_to(one.reshape(1, 2 * CHANNELS, 1, 1), (4, 2 * CHANNELS, SIZE, SIZE))


def shifted(image: np.ndarray) -> np.ndarray:
    """The same by a roll whose vacated pixels are zero."""
    result = np.empty_like(image)
    for channel, shift in enumerate(shifts):
        result[:, channel] = np.roll(image[:, channel], -shift, axis=-1)
        gap = slice(SIZE - shift, None) if shift > 0 else slice(0, -shift)
        result[:, channel, :, gap] = 0
    return result


identity = np.eye(CHANNELS, dtype="float32").reshape(CHANNELS, CHANNELS, 1, 1)
samples = cudeform.deform_conv2d(image, offset, identity)
assert np.array_equal(samples, shifted(image)), "not the same to the last bit"
print("equal to a roll filled with zeros, to the last bit")


# Alternate, so that other load on the machine affects both. Making the offset is part of the time.
times = {"broadcast": [], "materialised": []}
for _ in range(20):
    for name, made in (("broadcast", lambda: offset), ("materialised", lambda: offset.copy())):
        start = perf_counter()
        cudeform.deform_conv2d(image, made(), weight)
        times[name].append(1e3 * (perf_counter() - start))

print("with offsets " + ", ".join(f"{name} {min(ms):.1f} ms" for name, ms in times.items()))
print(f"memory of the offsets: {one.nbytes} bytes instead of {offset.size * one.itemsize}")
