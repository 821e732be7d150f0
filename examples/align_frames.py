"""Alignment of two frames as video restoration does it: one call with 8 offset groups and a mask.

Two parts of a photograph move differently between two frames. Each offset group has one hypothesis
of the motion, the mask says which hypothesis holds where, and the weight sums the groups. EDVR and
BasicVSR++ let a network predict offsets and mask; here gradient descent finds them, with
deform_conv2d_backward and no framework.

    python examples/align_frames.py [picture.png]
"""

import sys

import numpy as np
from matplotlib import cbook, image
from numpy.lib.stride_tricks import sliding_window_view

import cudeform

SIZE, GROUPS, STEPS = 128, 8, 60
FACE, REST = (3.5, -4.25), (-3.0, 5.5)  # motion of each part, (dy, dx), pixels


def blurred(images: np.ndarray, sigma: float) -> np.ndarray:
    """Images convolved with a Gaussian along their last two axes."""
    radius = int(4 * sigma + 0.5)
    gaussian = np.exp(-0.5 * (np.arange(-radius, radius + 1, dtype=images.dtype) / sigma) ** 2)
    for axis in (-2, -1):
        margins = np.zeros((images.ndim, 2), int)
        margins[axis] = radius
        padded = np.pad(images, margins, "symmetric")
        images = sliding_window_view(padded, gaussian.size, axis) @ (gaussian / gaussian.sum())
    return images


def shifted(images: np.ndarray, motion: tuple[float, float]) -> np.ndarray:
    """Shift images by a motion, with repeated edges: a deformable convolution of one tap."""
    padded = np.pad(images, ((0, 0), (8, 8), (8, 8)), "edge")[None]
    offset = np.reshape(np.array(motion, images.dtype), (1, 2, 1, 1))
    offset = np.broadcast_to(-offset, (1, 2, *padded.shape[2:]))
    one_tap = np.ones((len(images), 1, 1, 1), images.dtype)
    return cudeform.deform_conv2d(padded, offset, one_tap)[0, :, 8:-8, 8:-8]


# Two frames: the face has one motion, everything else another.
with cbook.get_sample_data("grace_hopper.jpg") as file:
    photo = image.imread(file, format="jpg")[40:424:3, 64:448:3].transpose(2, 0, 1) / np.float32(
        255
    )
y, x = np.mgrid[:SIZE, :SIZE]
face = ((y - 62) / 42) ** 2 + ((x - 66) / 32) ** 2 < 1
reference = photo
moved = [shifted(photo, motion) for motion in (FACE, REST)]
neighbour = np.where(shifted(face[None].astype(np.float32), FACE) > 0.5, *moved)

# Hypotheses start on a ring. Each group has the whole neighbour as its channels.
turn = 2 * np.pi * np.arange(GROUPS) / GROUPS
motions = 6 * np.stack((np.sin(turn), np.cos(turn)), axis=1).astype(np.float32)  # (GROUPS, 2)
keep_groups = np.eye(3 * GROUPS, dtype=np.float32)[:, :, None, None]


def offsets(motions: np.ndarray) -> np.ndarray:
    """One motion for each group, the same at all positions: broadcast, not copied."""
    return np.broadcast_to(motions.reshape(1, 2 * GROUPS, 1, 1), (1, 2 * GROUPS, SIZE, SIZE))


for step in range(STEPS):
    blur = 4 * (1 - step / STEPS) + 0.5  # coarse to fine
    smooth, target = blurred(neighbour, blur), blurred(reference, blur)
    frames = np.broadcast_to(smooth, (1, GROUPS, *smooth.shape)).reshape(1, -1, SIZE, SIZE)
    warped = cudeform.deform_conv2d(frames, offsets(motions), keep_groups)
    differences = warped.reshape(GROUPS, 3, SIZE, SIZE) - target
    # The mask of each hypothesis: a softmax over its mean error around a pixel.
    errors = blurred((differences**2).sum(1), 4)
    mask = np.exp(-(errors - errors.min(0)) / (0.1 * errors.mean() + 1e-8))
    mask /= mask.sum(0)
    slope = (mask[:, None] * differences).reshape(1, 3 * GROUPS, SIZE, SIZE)
    grads = cudeform.deform_conv2d_backward(
        slope, frames, offsets(motions), keep_groups, needs=("offset",)
    )
    direction = grads.offset.reshape(GROUPS, 2, -1).sum(2)
    length = np.linalg.norm(direction, axis=1, keepdims=True) + 1e-8
    motions = motions - 0.5 * (1 - step / STEPS) * direction / length

# The alignment: one deformable convolution of all groups.
frames = np.broadcast_to(neighbour, (1, GROUPS, *neighbour.shape)).reshape(1, -1, SIZE, SIZE)
add_up = np.tile(np.eye(3, dtype=np.float32), GROUPS)[:, :, None, None]
aligned = cudeform.deform_conv2d(frames, offsets(motions), add_up, mask=mask[None])[0]


def error(frame: np.ndarray) -> float:
    """Root mean square difference from the reference, without the margin of repeated edges."""
    return float(np.sqrt(((frame - reference)[:, 8:-8, 8:-8] ** 2).mean()))


best = np.argmax([mask[:, face].mean(1), mask[:, ~face].mean(1)], axis=1)
for name, true, (dy, dx) in zip(("face", "rest"), (FACE, REST), motions[best], strict=True):
    print(f"motion of the {name}: {true}, found ({dy:.2f}, {dx:.2f})")
print(f"error {error(neighbour):.4f} before, {error(aligned):.4f} after")
assert np.abs(motions[best] - np.array([FACE, REST])).max() < 0.5
assert error(aligned) < error(neighbour) / 3

if len(sys.argv) > 1:
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 4, figsize=(15, 4), layout="constrained")
    pictures = {"reference": reference, "neighbour": neighbour, "aligned": aligned}
    for panel, (name, picture) in zip(panels, pictures.items(), strict=False):
        panel.imshow(picture.transpose(1, 2, 0).clip(0, 1))
        panel.set_title(name)
        panel.set_axis_off()
    with_face = np.linalg.norm(motions - motions[best[0]], axis=1) < 1
    panels[3].imshow(mask[with_face].sum(0), cmap="gray", vmin=0, vmax=1)
    panels[3].set_title("mask of the groups that follow the face")
    panels[3].set_axis_off()
    figure.savefig(sys.argv[1], dpi=90, bbox_inches="tight")
