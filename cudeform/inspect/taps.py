"""Taps as marks on a panel, and what the marks mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cudeform.inspect.view import Floats, Taps, View, rectangle

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TAP_COLOURS = "plasma"
PLAIN_TAP = "#ffd92f"
MASKED_TAP = "#b12a90"
REGULAR = "#1f78b4"
OUTSIDE = "#ff3b30"
LEAST_MARK, LARGEST_MARK = 4.5, 9.5  # points
ENTRY = 1.1  # inches of the legend for each kind of marks
BELOW = 4.2  # letters between a panel and its legend: numbers and a name of the axis


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
        rectangle(panel, (first[1], first[0]), width, height, **edge)
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
        # A legend wider than its panel would push the panels beside it away.
        ncols=max(1, min(len(entries), int(panel.bbox.width / panel.figure.dpi / ENTRY))),
        fontsize=8.5,
        frameon=False,
        handletextpad=0.1,
        columnspacing=1.0,
    )
