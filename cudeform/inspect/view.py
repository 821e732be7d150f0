"""What a panel shows: an image, or the surroundings of some taps in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = NDArray[Any]

PALE = 0.45  # how far images are drawn towards white, so that marks stand out
FAR = 3  # times as far as most taps
MARGIN = 0.12  # of the image, for taps that are outside


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
    rectangle(panel, (-0.5, -0.5), width, height, **edge)
    panel.set_xlim(view.first[1], view.last[1])
    panel.set_ylim(view.last[0], view.first[0])
    panel.set_xlabel("x")
    panel.set_ylabel("y")


def rectangle(panel: Axes, corner: tuple[float, float], w: float, h: float, **style: Any) -> None:
    """Draw a rectangle; ``corner`` is (x, y)."""
    from matplotlib.patches import Rectangle

    panel.add_patch(Rectangle(corner, w, h, **style))
