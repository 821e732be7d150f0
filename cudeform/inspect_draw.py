"""The parts of a picture of taps or displacements. matplotlib is imported when one is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = NDArray[Any]

TAP_COLOURS = "plasma"
PLAIN_TAP = "#ffd92f"
MASKED_TAP = "#b12a90"
REGULAR = "#1f78b4"
OUTSIDE = "#ff3b30"
PALE = 0.45  # how far images are drawn towards white, so that marks stand out
FAR = 3  # times as far as most taps
MARGIN = 0.12  # of the image, for taps that are outside
ARROWS_ACROSS = 16
LEAST_MARK, LARGEST_MARK = 4.5, 9.5  # points
BELOW = 4.2  # letters between a panel and its legend: numbers and a name of the axis
SCALED = "mean displacement, px"


@dataclass(frozen=True)
class Taps:
    """The taps of one output position: (y, x) without and with the offset, and their weights."""

    still: Floats
    moved: Floats
    weights: Floats | None

    @property
    def spacing(self) -> float:
        """Distance of neighbouring taps of the regular grid, 1 if there is one tap."""
        steps = np.abs(np.diff(self.still, axis=0)).max(1)
        return float(steps.min()) if len(steps) else 1.0


@dataclass(frozen=True)
class View:
    """What a panel shows: an image of ``size`` between two corners (y, x)."""

    size: tuple[int, int]
    first: Floats
    last: Floats

    @classmethod
    def of(cls, size: tuple[int, int], taps: list[Taps], zoom: float | None) -> View:
        """The whole image and taps not far from it, or the surroundings of the taps."""
        corner = np.array(size, dtype=float) - 0.5
        places = [np.concatenate((each.still, each.moved)) for each in taps]
        ends = np.concatenate(places) if places else np.zeros((0, 2))
        ends = ends[np.isfinite(ends).all(1)]
        if zoom is None:
            reach = MARGIN * max(size)
            near = ends[((ends > -reach) & (ends < corner + reach)).all(1)]
            beyond = bool(((ends < -0.5) | (ends > corner)).any())
            ends = np.concatenate((near, np.array([[-0.5, -0.5], corner])))
            pad = MARGIN / 3 * max(size) if beyond else 0.0
            return cls(size, ends.min(0).clip(None, -0.5) - pad, ends.max(0) + pad)
        # Taps that are far from all others stay out of a close view.
        middle = np.median(ends, 0)
        far = FAR * np.quantile(np.abs(ends - middle), 0.9)
        near = ends[(np.abs(ends - middle) <= far).all(1)]
        near = ends if len(near) == 0 else near
        centre = (near.min(0) + near.max(0)) / 2
        reach = (near.max(0) - near.min(0)).max() / 2 + zoom
        return cls(size, centre - reach, centre + reach)

    def clip(self, places: Floats) -> Floats:
        """The places, those that are out of view at its edge."""
        room = 0.02 * (self.last - self.first)
        return np.nan_to_num(places, nan=0.0).clip(self.first + room, self.last - room)

    def inside(self, places: Floats) -> NDArray[np.bool_]:
        """Which places sample something."""
        held: NDArray[np.bool_] = (places > -1) & (places < np.array(self.size))
        return held[:, 0] & held[:, 1]


def draw_image(panel: Axes, picture: Floats, view: View) -> None:
    """Draw an image, paler than it is, its edge, and nothingness around it."""
    height, width = view.size
    panel.set_facecolor("#d9d9d9")
    pale = PALE + (1 - PALE) * picture
    panel.imshow(pale, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    edge: dict[str, Any] = {"fill": False, "edgecolor": "black", "linewidth": 1.2, "zorder": 1.5}
    _rectangle(panel, (-0.5, -0.5), width, height, **edge)
    panel.set_xlim(view.first[1], view.last[1])
    panel.set_ylim(view.last[0], view.first[0])
    panel.set_xlabel("x")
    panel.set_ylabel("y")


def _rectangle(panel: Axes, corner: tuple[float, float], w: float, h: float, **style: Any) -> None:
    from matplotlib.patches import Rectangle

    panel.add_patch(Rectangle(corner, w, h, **style))


def draw_taps(panel: Axes, taps: list[Taps], view: View) -> Any:
    """Draw all taps; returns what a colour bar is made from."""
    points = panel.bbox.width * 72 / panel.figure.dpi / float((view.last - view.first).max())
    mark = min(LARGEST_MARK, max(LEAST_MARK, 0.5 * points * taps[0].spacing))
    size = mark**2
    still = np.concatenate([each.still for each in taps])
    moved = np.concatenate([each.moved for each in taps])
    finite, inside = np.isfinite(moved).all(1), view.inside(moved)
    drawn = view.clip(np.where(np.isfinite(moved), moved, still))
    _draw_links(panel, still[finite], drawn[finite], 0.5 * mark / points)
    ring: dict[str, Any] = {
        "s": 0.7 * size,
        "facecolors": "white",
        "edgecolors": REGULAR,
        "linewidths": 1.5,
    }
    panel.scatter(still[:, 1], still[:, 0], zorder=3, label="regular", **ring)
    for each in taps:
        first, last = each.still.min(0), each.still.max(0)
        height, width = last - first
        edge: dict[str, Any] = {
            "fill": False,
            "edgecolor": REGULAR,
            "linewidth": 1.2,
            "zorder": 2.5,
        }
        _rectangle(panel, (first[1], first[0]), width, height, **edge)
    colour: dict[str, Any] = {"color": PLAIN_TAP}
    if taps[0].weights is not None:
        weights = np.concatenate([np.asarray(each.weights) for each in taps])
        colour = {"c": weights[inside], "cmap": TAP_COLOURS, "vmin": 0, "vmax": 1}
    shown = panel.scatter(
        drawn[inside, 1],
        drawn[inside, 0],
        s=size,
        edgecolors="black",
        linewidths=0.8,
        zorder=5,
        label="moved",
        **colour,
    )
    for label, marker, which in (("outside", "X", finite & ~inside), ("lost", "^", ~finite)):
        panel.scatter(
            drawn[which, 1],
            drawn[which, 0],
            s=1.5 * size,
            marker=marker,
            color=OUTSIDE,
            edgecolors="white",
            linewidths=0.9,
            zorder=6,
            label=label,
        )
    return shown


def _draw_links(panel: Axes, still: Floats, drawn: Floats, gap: float) -> None:
    """Arrows from regular taps to displaced ones, up to a gap before their marks."""
    length = np.hypot(*(drawn - still).T)
    far = length > 1.5 * gap
    still, drawn, length = still[far], drawn[far], length[far]
    arrow = (drawn - still) * (1 - gap / length)[:, None]
    panel.quiver(
        still[:, 1],
        still[:, 0],
        arrow[:, 1],
        arrow[:, 0],
        angles="xy",
        scale_units="xy",
        scale=1,
        units="inches",
        width=0.015,
        color="black",
        headwidth=4.5,
        headlength=6,
        headaxislength=5.5,
        zorder=4,
        minlength=0,
    )


def draw_legend(panel: Axes, drawn: Sequence[Any], masked: bool) -> None:
    """Name the kinds of marks that were drawn, below a panel."""
    from matplotlib.lines import Line2D

    moved = MASKED_TAP if masked else PLAIN_TAP
    kinds = {
        "regular": ("o", "regular tap", "white", REGULAR),
        "moved": ("o", "where it samples", moved, "black"),
        "outside": ("X", "outside: 0", OUTSIDE, "white"),
        "lost": ("^", "not finite", OUTSIDE, "white"),
    }
    present = {each.get_label() for each in drawn if len(each.get_offsets())}
    entries = [
        Line2D(
            [],
            [],
            linestyle="none",
            marker=marker,
            label=label,
            markersize=8,
            markerfacecolor=face,
            markeredgecolor=edge,
        )
        for kind, (marker, label, face, edge) in kinds.items()
        if kind in present
    ]
    panel.legend(
        handles=entries,
        loc="upper center",
        bbox_to_anchor=(0.5, 0),
        borderaxespad=BELOW,
        ncols=min(3, len(entries)),
        fontsize=8.5,
        frameon=False,
        handletextpad=0.1,
        columnspacing=1.0,
    )


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
    side = np.linspace(-1, 1, 101)
    disc = np.stack(np.meshgrid(side, side, indexing="ij"))
    inside = np.hypot(*disc) <= 1
    wheel = np.concatenate((_wheel(disc, 1.0), inside[..., None]), axis=2)
    corner = panel.inset_axes((1.06, 0.66, 0.3, 0.3))
    corner.imshow(wheel, extent=(-1, 1, 1, -1))
    corner.set_axis_off()
    corner.set_title(f"radius {longest:.2g} px", fontsize=9)


def _wheel(shift: Floats, longest: float) -> Floats:
    """Colours of displacements (2, H, W): their direction and length; black where not finite."""
    from matplotlib.colors import hsv_to_rgb

    length = np.hypot(shift[0], shift[1]) / longest
    hue = np.arctan2(shift[0], shift[1]) / (2 * np.pi) % 1
    known = np.isfinite(length)
    parts = (hue, length.clip(0, 1), known.astype(float))
    colours: Floats = hsv_to_rgb(np.stack([np.where(known, part, 0) for part in parts], axis=-1))
    return colours
