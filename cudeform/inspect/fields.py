"""Displacements of all output positions as arrows or as colours."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np

from cudeform.inspect.view import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ARROWS_ACROSS = 16
SCALED = "mean displacement, px"
# Colours by angle, from right over down, left and up. Those that are opposite differ in lightness
# or in blue against yellow, so they do for every kind of colour blindness.
DIRECTIONS = {
    0: (0.84, 0.37, 0.0),
    90: (0.94, 0.89, 0.26),
    180: (0.0, 0.62, 0.45),
    270: (0.0, 0.27, 0.70),
    315: (0.65, 0.35, 0.65),
    360: (0.84, 0.37, 0.0),
}


def draw_arrows(panel: Axes, centre: Floats, shift: Floats, longest: float, on_image: bool) -> Any:
    """Arrows at some of the output positions; returns what a colour bar is made from."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    step = max(1, ceil(max(centre.shape[1:]) / ARROWS_ACROSS))
    some = (slice(step // 2, None, step), slice(step // 2, None, step))
    (y, x), (dy, dx) = (each[:, *some] for each in (centre, shift))
    apart = abs(float(y.flat[-1] - y.flat[0])) / max(1, y.shape[0] - 1) or 1.0
    # The longest arrow reaches over two places, unless true lengths are as easy to read.
    factor = 1.0 if apart / 2 < longest < 3 * apart else 1.6 * apart / longest
    arrows = panel.quiver(
        x,
        y,
        dx,
        dy,
        np.hypot(dy, dx),
        angles="xy",
        scale_units="xy",
        scale=1 / factor,
        cmap=ListedColormap(colormaps["viridis_r"](np.linspace(0.25, 1, 256))),
        clim=(0, longest),
        width=0.006,
        headwidth=3.5,
        minlength=0.5,
    )
    panel.set_aspect("equal")
    if not on_image:
        panel.set_ylim(y.max() + 1.5 * apart, y.min() - 1.5 * apart)
        panel.set_xlim(x.min() - 1.5 * apart, x.max() + 1.5 * apart)
    panel.set_xlabel("x" if factor == 1 else f"x (arrows drawn {factor:.2g} times as long)")
    panel.set_ylabel("y")
    return arrows


def draw_colours(panel: Axes, shift: Floats, longest: float) -> None:
    """A colour for each output position: direction and length of its displacement."""
    panel.imshow(_wheel(shift, longest), interpolation="nearest")
    panel.set_xlabel("output x")
    panel.set_ylabel("output y")


def draw_wheel(panel: Axes, longest: float) -> None:
    """What the colours mean, beside a panel."""
    side = np.linspace(-1, 1, 201)
    disc = np.stack(np.meshgrid(side, side, indexing="ij"))
    inside = np.hypot(*disc) <= 1
    wheel = np.concatenate((_wheel(disc, 1.0), inside[..., None]), axis=2)
    corner = panel.inset_axes((1.1, 0.6, 0.3, 0.3))
    corner.imshow(wheel, extent=(-1, 1, 1, -1))
    corner.set_axis_off()
    corner.set_title(f"radius {longest:.2g} px", fontsize=9, pad=14)
    for x, y, name in ((1.1, 0, "+x"), (0, 1.15, "+y")):
        corner.text(x, y, name, fontsize=8, ha="left" if x else "center", va="center")


def _wheel(shift: Floats, longest: float) -> Floats:
    """Colours of displacements (2, H, W): their direction and length; black where not finite."""
    length = np.hypot(shift[0], shift[1]) / longest
    known = np.isfinite(length)
    length = np.where(known, length, 0).clip(0, 1)[..., None]
    angle = np.degrees(np.arctan2(*np.where(known, shift, 0))) % 360
    angles, channels = list(DIRECTIONS), zip(*DIRECTIONS.values(), strict=True)
    full = np.stack([np.interp(angle, angles, channel) for channel in channels], axis=-1)
    shown: Floats = (1 - length * (1 - full)) * known[..., None]
    return shown
