"""Alignment of two videos in time and space: one deformable convolution in three dimensions.

Two cameras film the same scene. The second one started 1.5 frames later, and points elsewhere.
Gradient descent finds the displacement (frames, rows, columns) between the two videos, with
deform_conv3d_backward and no framework; deform_conv3d then samples the second video where the
first one looked, between its frames and pixels.

    python examples/align_videos.py [picture.png]
"""

import sys

import numpy as np
from matplotlib import cbook, image
from numpy.lib.stride_tricks import sliding_window_view

import cudeform

FRAMES, SIZE, STEPS = 16, 64, 60
LATER, ELSEWHERE = 1.5, (3.0, -2.5)  # frames; rows and columns
TRUE = np.array([-LATER, -ELSEWHERE[0], -ELSEWHERE[1]])
INSIDE = (..., slice(3, -3), slice(8, -8), slice(8, -8))  # samples of these are in the video

with cbook.get_sample_data("grace_hopper.jpg") as file:
    photo = image.imread(file, format="jpg")[40:424:3, 64:448:3].mean(2, dtype=np.float32) / 255


def filmed(times: np.ndarray, aim: tuple[float, float]) -> np.ndarray:
    """A video (1, 1, times, SIZE, SIZE): a hand-held camera wanders over the photograph."""
    y = 28 + aim[0] + 8 * np.sin(0.25 * times)
    x = 30 + aim[1] + 8 * np.sin(0.19 * times + 1)
    offset = np.stack((y, x), axis=1).astype(np.float32)[:, :, None, None]
    offset = np.broadcast_to(offset, (len(times), 2, *photo.shape))
    frames = np.broadcast_to(photo, (len(times), 1, *photo.shape))
    one_tap = np.ones((1, 1, 1, 1), np.float32)
    return cudeform.deform_conv2d(frames, offset, one_tap)[None, None, :, 0, :SIZE, :SIZE]


def blurred(video: np.ndarray, sigma: float) -> np.ndarray:
    """A video whose frames are convolved with a Gaussian."""
    radius = int(3 * sigma + 0.5)
    gaussian = np.exp(-0.5 * (np.arange(-radius, radius + 1, dtype=np.float32) / sigma) ** 2)
    for axis in (-2, -1):
        margins = np.zeros((video.ndim, 2), int)
        margins[axis] = radius
        padded = np.pad(video, margins, "symmetric")
        video = sliding_window_view(padded, gaussian.size, axis) @ (gaussian / gaussian.sum())
    return video


def offsets(motion: np.ndarray) -> np.ndarray:
    """The same displacement at all positions: broadcast, not copied."""
    one = motion.astype(np.float32).reshape(1, 3, 1, 1, 1)
    return np.broadcast_to(one, (1, 3, FRAMES, SIZE, SIZE))


time = np.arange(FRAMES)
first, second = filmed(time, (0, 0)), filmed(time + LATER, ELSEWHERE)
one_tap = np.ones((1, 1, 1, 1, 1), np.float32)
motion, scale = np.zeros(3), np.array([0.15, 0.5, 0.5])  # a frame weighs as much as a few pixels
for step in range(STEPS):
    blur = 5 * (1 - step / STEPS) + 0.5  # coarse to fine
    moving, target = blurred(second, blur), blurred(first, blur)
    slope = np.zeros_like(target)
    warped = cudeform.deform_conv3d(moving, offsets(motion), one_tap)
    slope[INSIDE] = (warped - target)[INSIDE]
    grads = cudeform.deform_conv3d_backward(
        slope, moving, offsets(motion), one_tap, needs=("offset",)
    )
    direction = grads.offset.sum((0, 2, 3, 4)) * scale
    motion -= scale * (1 - step / STEPS) * direction / (np.linalg.norm(direction) + 1e-8)

aligned = cudeform.deform_conv3d(second, offsets(motion), one_tap)


def error(video: np.ndarray) -> float:
    """Root mean square difference from the first video, away from its edges."""
    return float(np.sqrt(((video - first)[INSIDE] ** 2).mean()))


print(f"true displacement  {TRUE} frames, rows, columns")
print(f"found displacement {motion.round(2)}")
print(f"error {error(second):.4f} before, {error(aligned):.4f} after")
assert np.abs(motion - TRUE).max() < 0.3
assert error(aligned) < error(second) / 3

if len(sys.argv) > 1:
    from matplotlib import pyplot

    shown = (4, 8, 12)
    pictures = {"first camera": first, "second camera": second, "second, aligned": aligned}
    figure, panels = pyplot.subplots(len(shown), 5, figsize=(12, 7.4), layout="constrained")
    for row, frame in zip(panels, shown, strict=True):
        for panel, video in zip(row, pictures.values(), strict=False):
            panel.imshow(video[0, 0, frame], cmap="gray", vmin=0, vmax=1)
        for panel, video in zip(row[3:], (second, aligned), strict=True):
            difference = (video - first)[0, 0, frame, 8:-8, 8:-8]
            panel.imshow(difference, cmap="RdBu", vmin=-0.5, vmax=0.5)
        row[0].set_ylabel(f"frame {frame}")
        for panel in row:
            panel.set(xticks=[], yticks=[])
    titles = (*pictures, "difference before", "difference after")
    for panel, title in zip(panels[0], titles, strict=True):
        panel.set_title(title)
    figure.savefig(sys.argv[1], dpi=90)
