"""Drawing of a panel of ``plot_sampling`` for one axis: a curve, and taps on it.

A tap is drawn where the curve is at its location, so the height of a mark is the sampled value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cudeform.inspect._drawing import LARGEST_MARK, MARGIN, Taps, draw_marks, mask_of
from cudeform.inspect._namespace import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURVE, OUTSIDE_AREA = "#5a5a5a", "#d9d9d9"
ROOM = 0.15  # space above and below the curve, relative to its height


def draw_signal_taps(
    panel: Axes, signal: Floats, taps: list[Taps], shown: tuple[float, float]
) -> Any:
    """Draw a signal and taps in a range of x; return the marks of the sampled taps."""
    regular = np.concatenate([each.regular[:, 0] for each in taps])
    sampled = np.concatenate([each.sampled[:, 0] for each in taps])
    first, last = shown
    _draw_signal(panel, signal, first, last)
    finite = np.isfinite(sampled)
    inside = (sampled > -1) & (sampled < len(signal))
    margin = 0.01 * (last - first)
    drawn = np.where(finite, sampled, regular).clip(first + margin, last - margin)
    ends = _on_curve(signal, regular), _on_curve(signal, drawn)
    for begin, end in zip(ends[0][finite], ends[1][finite], strict=True):
        if abs(end[1] - begin[1]) > margin:
            _draw_arrow(panel, begin, end)
    return draw_marks(panel, *ends, LARGEST_MARK, finite, inside, mask_of(taps))


def range_of(width: int, taps: list[Taps], zoom: float | None) -> tuple[float, float]:
    """The range of x to show: the whole signal with the taps near it, or around the taps."""
    points = np.concatenate([part[:, 0] for each in taps for part in (each.regular, each.sampled)])
    points = points[np.isfinite(points)]
    if zoom is not None:
        return float(points.min()) - zoom, float(points.max()) + zoom
    reach = MARGIN * width
    near = points[(points > -reach) & (points < width + reach)]
    return min(-1.0, *near - 1), max(float(width), *near + 1)


def _on_curve(signal: Floats, x: Floats) -> Floats:
    """Points (y, x) of the curve, which is 0 outside the signal as samples are."""
    at = np.arange(-1, len(signal) + 1)
    return np.stack((np.interp(x, at, np.pad(np.nan_to_num(signal), 1)), x), axis=1)


def _draw_signal(panel: Axes, signal: Floats, first: float, last: float) -> None:
    """Draw the curve; outside the signal the background is grey."""
    at = np.arange(-1, len(signal) + 1)
    panel.plot(at, np.pad(signal, 1), color=CURVE, linewidth=1.2, zorder=1.5)
    if last - first < 60:
        panel.plot(at[1:-1], signal, ".", color=CURVE, markersize=4, zorder=1.6)
    for begin, end in ((first, -0.5), (len(signal) - 0.5, last)):
        if begin < end:
            panel.axvspan(begin, end, color=OUTSIDE_AREA, zorder=0)
    shown = signal[max(0, int(first)) : max(1, int(last) + 2)]
    values = np.append(shown[np.isfinite(shown)], 0.0)
    margin = ROOM * (float(np.ptp(values)) or 1.0)
    panel.set_xlim(first, last)
    panel.set_ylim(values.min() - margin, values.max() + margin)
    panel.set_xlabel("x")
    panel.set_ylabel("value")


def _draw_arrow(panel: Axes, begin: Floats, end: Floats) -> None:
    """Draw a bent arrow between the marks of a tap, from and to points (y, x)."""
    bend = -0.35 if end[1] > begin[1] else 0.35  # upwards, in either direction
    panel.annotate(
        "",
        xy=(end[1], end[0]),
        xytext=(begin[1], begin[0]),
        zorder=4,
        arrowprops={
            "arrowstyle": "-|>",
            "connectionstyle": f"arc3,rad={bend}",
            "shrinkA": LARGEST_MARK / 2,
            "shrinkB": LARGEST_MARK / 2,
            "color": "black",
            "linewidth": 1.1,
        },
    )
