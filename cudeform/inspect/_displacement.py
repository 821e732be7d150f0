"""Drawing of the mean displacement of every output position, as arrows or as colours."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np

from cudeform.inspect._namespace import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ARROWS_ACROSS = 16
COLOUR_BAR = "mean displacement, px"
# Colours by angle in degrees: right, down, left, up. Opposite directions differ in lightness or as
# blue and yellow, so that people with any kind of colour blindness can tell them apart.
DIRECTIONS = {
    0: (0.84, 0.37, 0.0),
    90: (0.94, 0.89, 0.26),
    180: (0.0, 0.62, 0.45),
    270: (0.0, 0.27, 0.70),
    315: (0.65, 0.35, 0.65),
    360: (0.84, 0.37, 0.0),
}


def draw_arrows(
    panel: Axes, centre: Floats, displacement: Floats, longest: float, on_image: bool
) -> Any:
    """Draw arrows at a regular selection of output positions; return them for a colour bar."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    step = max(1, ceil(max(centre.shape[1:]) / ARROWS_ACROSS))
    some = (slice(step // 2, None, step), slice(step // 2, None, step))
    (y, x), (dy, dx) = (each[:, *some] for each in (centre, displacement))
    spacing = abs(float(y.flat[-1] - y.flat[0])) / max(1, y.shape[0] - 1) or 1.0
    # Draw true lengths if they are legible. Otherwise scale the longest arrow to 1.6 spacings.
    factor = 1.0 if spacing / 2 < longest < 3 * spacing else 1.6 * spacing / longest
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
        panel.set_ylim(y.max() + 1.5 * spacing, y.min() - 1.5 * spacing)
        panel.set_xlim(x.min() - 1.5 * spacing, x.max() + 1.5 * spacing)
    panel.set_xlabel("x" if factor == 1 else f"x (arrows drawn {factor:.2g} times as long)")
    panel.set_ylabel("y")
    return arrows


def draw_colours(panel: Axes, displacement: Floats, longest: float) -> None:
    """Draw each output position in the colour of its displacement's direction and length."""
    panel.imshow(_colours_of(displacement, longest), interpolation="nearest")
    panel.set_xlabel("output x")
    panel.set_ylabel("output y")


def draw_wheel(panel: Axes, longest: float) -> None:
    """Draw the legend of a panel: a wheel with the colours of all directions and lengths."""
    side = np.linspace(-1, 1, 201)
    disc = np.stack(np.meshgrid(side, side, indexing="ij"))
    inside = np.hypot(*disc) <= 1
    wheel = np.concatenate((_colours_of(disc, 1.0), inside[..., None]), axis=2)
    inset = panel.inset_axes((1.1, 0.6, 0.3, 0.3))
    inset.imshow(wheel, extent=(-1, 1, 1, -1))
    inset.set_axis_off()
    inset.set_title(f"radius {longest:.2g} px", fontsize=9, pad=14)
    for x, y, name in ((1.1, 0, "+x"), (0, 1.15, "+y")):
        inset.text(x, y, name, fontsize=8, ha="left" if x else "center", va="center")


def _colours_of(displacement: Floats, longest: float) -> Floats:
    """Colours of displacements (2, H, W): the hue is the direction, the saturation the length.

    A displacement of zero is white; one that is not finite is black.
    """
    length = np.hypot(displacement[0], displacement[1]) / longest
    finite = np.isfinite(length)
    length = np.where(finite, length, 0).clip(0, 1)[..., None]
    angle = np.degrees(np.arctan2(*np.where(finite, displacement, 0))) % 360
    angles, channels = list(DIRECTIONS), zip(*DIRECTIONS.values(), strict=True)
    full = np.stack([np.interp(angle, angles, channel) for channel in channels], axis=-1)
    colours: Floats = (1 - length * (1 - full)) * finite[..., None]
    return colours
