"""Drawing of a panel of ``plot_sampling``: image, taps of some output positions, legend.

``_signal`` has what is different for one axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cudeform.inspect._namespace import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PALENESS = 0.45  # share of white blended into images, so that marks stand out
FAR = 3  # a tap is far if its distance from the median exceeds this multiple of most distances
MARGIN = 0.12  # width of the area around an image that shows taps outside, relative to its size

TAP_COLOURS = "plasma"
PLAIN_TAP = "#ffd92f"
MASKED_TAP = "#b12a90"
REGULAR = "#1f78b4"
OUTSIDE = "#ff3b30"
SMALLEST_MARK, LARGEST_MARK = 4.5, 9.5  # points
ENTRY_WIDTH = 1.1  # inches for each entry of the legend
LEGEND_GAP = 4.2  # space between a panel and its legend for the axis labels, in font sizes


@dataclass(frozen=True)
class Taps:
    """The taps of one output position: (y, x) without and with the offset, and the mask."""

    regular: Floats
    sampled: Floats
    mask: Floats | None

    @property
    def spacing(self) -> float:
        """Distance between neighbouring taps of the regular grid; 1 for a single tap."""
        steps = np.abs(np.diff(self.regular, axis=0)).max(1)
        return float(steps.min()) if len(steps) else 1.0


@dataclass(frozen=True)
class View:
    """The area that a panel shows of an image of ``size``, given by two corners (y, x)."""

    size: tuple[int, int]
    first: Floats
    last: Floats

    @classmethod
    def of(cls, size: tuple[int, int], taps: list[Taps], zoom: float | None) -> View:
        """The whole image with the taps near it, or the taps and ``zoom`` pixels around them."""
        locations = [np.concatenate((each.regular, each.sampled)) for each in taps]
        points = np.concatenate(locations) if locations else np.zeros((0, 2))
        points = points[np.isfinite(points).all(1)]
        return cls._of_image(size, points) if zoom is None else cls._of_taps(size, points, zoom)

    @classmethod
    def _of_image(cls, size: tuple[int, int], points: Floats) -> View:
        corner = np.array(size, dtype=float) - 0.5
        reach = MARGIN * max(size)
        near = points[((points > -reach) & (points < corner + reach)).all(1)]
        outside = bool(((points < -0.5) | (points > corner)).any())
        ends = np.concatenate((near, np.array([[-0.5, -0.5], corner])))
        pad = MARGIN / 3 * max(size) if outside else 0.0
        return cls(size, ends.min(0).clip(None, -0.5) - pad, ends.max(0) + pad)

    @classmethod
    def _of_taps(cls, size: tuple[int, int], points: Floats, zoom: float) -> View:
        # The view leaves out a few taps if they are far from all others.
        distance = np.abs(points - np.median(points, 0))
        near = points[(distance <= FAR * np.quantile(distance, 0.9)).all(1)]
        near = points if len(near) == 0 else near
        centre = (near.min(0) + near.max(0)) / 2
        reach = (near.max(0) - near.min(0)).max() / 2 + zoom
        return cls(size, centre - reach, centre + reach)

    def clip(self, points: Floats) -> Floats:
        """Move points outside the view to its edge."""
        margin = 0.02 * (self.last - self.first)
        return np.nan_to_num(points, nan=0.0).clip(self.first + margin, self.last - margin)

    def samples_image(self, points: Floats) -> NDArray[np.bool_]:
        """Whether each point has a corner in bounds; points without one sample zeros."""
        in_range: NDArray[np.bool_] = (points > -1) & (points < np.array(self.size))
        return in_range[:, 0] & in_range[:, 1]


def draw_image(panel: Axes, picture: Floats, view: View) -> None:
    """Draw an image in pale colours and its outline on a grey background."""
    height, width = view.size
    panel.set_facecolor("#d9d9d9")
    pale = PALENESS + (1 - PALENESS) * picture
    panel.imshow(pale, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    _rectangle(panel, (-0.5, -0.5), width, height, edgecolor="black", zorder=1.5)
    panel.set_xlim(view.first[1], view.last[1])
    panel.set_ylim(view.last[0], view.first[0])
    panel.set_xlabel("x")
    panel.set_ylabel("y")


def _rectangle(panel: Axes, corner: tuple[float, float], w: float, h: float, **style: Any) -> None:
    """Draw a rectangle; ``corner`` is (x, y)."""
    from matplotlib.patches import Rectangle

    panel.add_patch(Rectangle(corner, w, h, fill=False, linewidth=1.2, **style))


def draw_taps(panel: Axes, taps: list[Taps], view: View) -> Any:
    """Draw all taps of an image; return the marks of the sampled taps for a colour bar."""
    points_per_pixel = (
        panel.bbox.width * 72 / panel.figure.dpi / float((view.last - view.first).max())
    )
    mark = min(LARGEST_MARK, max(SMALLEST_MARK, 0.5 * points_per_pixel * taps[0].spacing))
    regular = np.concatenate([each.regular for each in taps])
    sampled = np.concatenate([each.sampled for each in taps])
    finite, inside = np.isfinite(sampled).all(1), view.samples_image(sampled)
    drawn = view.clip(np.where(np.isfinite(sampled), sampled, regular))
    _draw_arrows(panel, regular[finite], drawn[finite], 0.5 * mark / points_per_pixel)
    for each in taps:
        first = each.regular.min(0)
        height, width = each.regular.max(0) - first
        _rectangle(panel, (first[1], first[0]), width, height, edgecolor=REGULAR, zorder=2.5)
    return draw_marks(panel, regular, drawn, mark, finite, inside, mask_of(taps))


def mask_of(taps: list[Taps]) -> Floats | None:
    """The masks of all taps, or None."""
    masks = [each.mask for each in taps if each.mask is not None]
    return np.concatenate(masks) if masks else None


def draw_marks(
    panel: Axes,
    regular: Floats,
    drawn: Floats,
    mark: float,
    finite: NDArray[np.bool_],
    inside: NDArray[np.bool_],
    mask: Floats | None,
) -> Any:
    """Draw the marks of taps; return those of the sampled taps.

    Args:
        panel: where to draw.
        regular, drawn: points (y, x) of the taps without and with the offset.
        mark: size of a mark in points.
        finite: whether the displacement of each tap is finite.
        inside: whether each tap samples the image.
        mask: the mask of each tap, or None.
    """
    panel.scatter(
        regular[:, 1],
        regular[:, 0],
        s=0.7 * mark**2,
        facecolors="white",
        edgecolors=REGULAR,
        linewidths=1.5,
        zorder=3,
        label="regular",
    )
    colour: dict[str, Any] = {"color": PLAIN_TAP}
    if mask is not None:
        colour = {"c": mask[inside], "cmap": TAP_COLOURS, "vmin": 0, "vmax": 1}
    shown = panel.scatter(
        drawn[inside, 1],
        drawn[inside, 0],
        s=mark**2,
        edgecolors="black",
        linewidths=0.8,
        zorder=5,
        label="sampled",
        **colour,
    )
    for label, marker, which in (("outside", "X", finite & ~inside), ("non-finite", "^", ~finite)):
        panel.scatter(
            drawn[which, 1],
            drawn[which, 0],
            s=1.5 * mark**2,
            marker=marker,
            color=OUTSIDE,
            edgecolors="white",
            linewidths=0.9,
            zorder=6,
            label=label,
        )
    return shown


def _draw_arrows(panel: Axes, regular: Floats, drawn: Floats, gap: float) -> None:
    """Draw arrows from regular taps to displaced taps, ending a gap before the marks."""
    length = np.hypot(*(drawn - regular).T)
    far = length > 1.5 * gap
    regular, drawn, length = regular[far], drawn[far], length[far]
    arrow = (drawn - regular) * (1 - gap / length)[:, None]
    panel.quiver(
        regular[:, 1],
        regular[:, 0],
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
    """Draw a legend below a panel, with an entry for each kind of mark in the picture."""
    from matplotlib.lines import Line2D

    kinds = {
        "regular": ("o", "regular tap", "white", REGULAR),
        "sampled": ("o", "where it samples", MASKED_TAP if masked else PLAIN_TAP, "black"),
        "outside": ("X", "outside: 0", OUTSIDE, "white"),
        "non-finite": ("^", "not finite", OUTSIDE, "white"),
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
        borderaxespad=LEGEND_GAP,
        # A legend wider than its panel would shrink the neighbouring panels.
        ncols=max(1, min(len(entries), int(panel.bbox.width / panel.figure.dpi / ENTRY_WIDTH))),
        fontsize=8.5,
        frameon=False,
        handletextpad=0.1,
        columnspacing=1.0,
    )
