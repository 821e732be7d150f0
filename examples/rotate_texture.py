"""Rotation-aware sampling: a kernel that turns with the texture has the same response everywhere.

The response of a filter for stripes of one direction drops where the stripes turn. Offsets that
rotate its taps by the local angle (as in oriented and rotation-equivariant detectors) keep it
constant.

    python examples/rotate_texture.py [picture.png]
"""

import sys

import numpy as np

import cudeform

SIZE, KERNEL, DILATION, WAVELENGTH = 96, 5, 2, 8.0

# Stripes on rings: their direction differs from position to position.
y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
image = np.cos(2 * np.pi * np.hypot(y, x) / WAVELENGTH)[None, None]
angle = np.arctan2(y, x)  # of the direction across the stripes

# A filter for upright stripes: one period along x.
taps = DILATION * np.stack(np.mgrid[:KERNEL, :KERNEL] - KERNEL // 2)  # (2, KH, KW): y, x
filter_ = np.cos(2 * np.pi * taps[1] / WAVELENGTH)
weight = (filter_ - filter_.mean())[None, None]

# Displacement of each tap by the rotation: (KH, KW, 2, OH, OW), dy first.
cos, sin = np.cos(angle), np.sin(angle)
ty, tx = taps[0][..., None, None], taps[1][..., None, None]
rotated = np.stack((cos * ty + sin * tx, cos * tx - sin * ty), axis=2)
still = np.broadcast_to(np.stack((ty, tx), axis=2), rotated.shape)
offset = (rotated - still).reshape(1, 2 * KERNEL**2, SIZE, SIZE)

layout = {"padding": DILATION * (KERNEL // 2), "dilation": DILATION}
fixed = cudeform.deform_conv2d(image, np.zeros_like(offset), weight, **layout)[0, 0]
turned = cudeform.deform_conv2d(image, offset, weight, **layout)[0, 0]


def ring_spread(response: np.ndarray) -> float:
    """Standard deviation of the response along the crests, relative to its mean magnitude."""
    radius = np.hypot(y, x)
    crest = response[(radius % WAVELENGTH < 0.6) & (radius > 12) & (radius < 40)]
    return float(crest.std() / np.abs(crest).mean())


print(f"spread along the rings: fixed kernel {ring_spread(fixed):.2f}, ", end="")
print(f"turning kernel {ring_spread(turned):.2f}")
assert ring_spread(turned) < 0.2 < ring_spread(fixed)

if len(sys.argv) > 1:
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 3, figsize=(13, 5), layout="constrained")
    drawn = {"positions": [(30, 70)], "zoom": 3}
    cudeform.plot_sampling(image, offset, KERNEL, **layout, **drawn, ax=panels[0])
    panels[0].set_title("taps turn with the stripes")
    for panel, title, response in (
        (panels[1], "response of a fixed kernel", fixed),
        (panels[2], "response of a turning kernel", turned),
    ):
        panel.imshow(response, cmap="RdBu", vmin=-13, vmax=13)
        panel.set_title(title)
        panel.set_axis_off()
    figure.savefig(sys.argv[1], dpi=90, bbox_inches="tight")
