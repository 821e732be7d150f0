"""The demo's picture: the two images, what was found, and how far it is from the truth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

if TYPE_CHECKING:  # demo imports this module, and only where matplotlib is there
    from cudeform.demo import Result

Floats = NDArray[np.float32]

SIZE = (14.0, 9.0)  # inches
DPI = 100
ARROWS_ACROSS = 13
ARROW_LENGTH = 2.0  # drawn for each pixel of displacement, in pixels of the image


def draw(result: Result, output: Path) -> None:
    """Write the picture as a PNG of SIZE * DPI pixels.

    Columns: the images, the images on top of which nothing is drawn; their differences; the fields.
    The upper row is what was given, the lower row what came of it.
    """
    # The default style and no pyplot: the caller's settings neither matter nor change.
    with matplotlib.style.context("default"):
        figure = Figure(figsize=SIZE, dpi=DPI)
        panels = figure.subplots(2, 4)
        _place(figure)
        _draw_images(panels, result)
        _draw_errors(figure, panels[:, 2], result)
        _draw_fields(panels[:, 3], result)
        _draw_distance(figure, panels[1, 0], result)
        figure.savefig(output, format="png", dpi=DPI, bbox_inches=None)


def _place(figure: Figure) -> None:
    figure.subplots_adjust(left=0.01, right=0.99, top=0.94, bottom=0.10, wspace=0.05, hspace=0.14)


def _draw_images(panels: NDArray[Any], result: Result) -> None:
    _show(panels[0, 0], "fixed", result.fixed)
    _show(panels[0, 1], "moving", result.moving)
    _show(panels[1, 1], "moving, registered", result.registered)


def _show(axes: Axes, title: str, image: Floats) -> None:
    axes.imshow(image.transpose(1, 2, 0))
    _name(axes, title)


def _name(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=16)
    axes.set_axis_off()


def _draw_errors(figure: Figure, panels: NDArray[Any], result: Result) -> None:
    """Both differences in the same colours, so that they can be compared."""
    before = np.abs(result.moving - result.fixed).mean(0)
    after = np.abs(result.registered - result.fixed).mean(0)
    top = float(np.quantile(before, 0.99))
    for axes, title, values in (
        (panels[0], f"error before: {result.error_before:.4f}", before),
        (panels[1], f"error after: {result.error_after:.4f}", after),
    ):
        shown = axes.imshow(values, cmap="magma", vmin=0, vmax=top)
        _name(axes, title)
    _colour_bar(figure, panels[1], shown, "mean over colours, of 1")


def _draw_distance(figure: Figure, axes: Axes, result: Result) -> None:
    distance = np.hypot(*(result.found - result.true))
    shown = axes.imshow(distance, cmap="viridis", vmin=0)
    _name(axes, f"field off by {result.field_error:.2f} px")
    _colour_bar(figure, axes, shown, "px")


def _colour_bar(figure: Figure, axes: Axes, shown: Any, label: str) -> None:
    strip = axes.inset_axes((0.05, -0.07, 0.9, 0.03))
    bar = figure.colorbar(shown, cax=strip, orientation="horizontal", extend="max")
    bar.ax.tick_params(labelsize=12)
    bar.set_label(label, fontsize=12)


def _draw_fields(panels: NDArray[Any], result: Result) -> None:
    for axes, title, field in (
        (panels[0], "true field", result.true),
        (panels[1], "recovered field", result.found),
    ):
        _draw_arrows(axes, result.fixed, field)
        _name(axes, title)


def _draw_arrows(axes: Axes, image: Floats, field: Floats) -> None:
    """Arrows over a pale image: from a pixel of the fixed image to its place in the moving one."""
    axes.imshow(image.mean(0), cmap="gray", vmin=0, vmax=1, alpha=0.3)
    height, width = image.shape[1:]
    spacing = width / ARROWS_ACROSS
    y = np.arange(spacing / 2, height, spacing).astype(int)
    x = np.arange(spacing / 2, width, spacing).astype(int)
    dy, dx = field[:, y[:, None], x]
    arrows = axes.quiver(
        x, y, dx, dy, angles="xy", scale_units="xy", scale=1 / ARROW_LENGTH,
        color="#b2182b", width=0.008,
    )  # fmt: skip
    axes.quiverkey(arrows, 0.5, -0.06, 10, "10 px", labelpos="E", fontproperties={"size": 12})
