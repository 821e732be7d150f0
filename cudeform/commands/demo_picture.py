"""The demo's picture: both images, both fields, and the errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cudeform.commands.demo_registration import Floats, Result

SIZE = (14.0, 9.5)  # inches
DPI = 100
TITLE, LABEL = 17, 13  # points; legible when the picture is shown at two thirds of its size

ARROWS_ACROSS = 11
ARROW_LENGTH = 2.0  # as drawn, for a displacement of 1
ARROW_COLOUR = "#b2182b"


def draw(result: Result, output: Path) -> None:
    """Write a picture of SIZE * DPI pixels; the file's suffix selects the format.

    The upper row shows the given images and the true field, the lower row the results.
    """
    # The default style and no pyplot: the caller's settings have no effect and do not change.
    with matplotlib.style.context("default"):
        figure = Figure(figsize=SIZE, dpi=DPI)
        panels = figure.subplots(2, 4)
        figure.subplots_adjust(
            left=0.02, right=0.98, top=0.95, bottom=0.11, wspace=0.04, hspace=0.12
        )
        _draw_images(panels, result)
        _draw_errors(panels[:, 2], result)
        _draw_distance(panels[1, 0], result)
        _draw_fields(panels[:, 3], result)
        figure.savefig(output)


def _draw_images(panels: NDArray[Any], result: Result) -> None:
    for axes, title, image in (
        (panels[0, 0], "fixed", result.fixed),
        (panels[0, 1], "moving", result.moving),
        (panels[1, 1], "moving, registered", result.registered),
    ):
        # Rounding can give values above 1, and imshow would warn about them.
        axes.imshow(image.transpose(1, 2, 0).clip(0, 1))
        _name(axes, title)


def _draw_errors(panels: NDArray[Any], result: Result) -> None:
    before = np.abs(result.moving - result.fixed).mean(0)
    after = np.abs(result.registered - result.fixed).mean(0)
    brightest = np.quantile(before, 0.99)  # one scale for both panels, so that they compare
    panels[0].imshow(before, cmap="magma", vmin=0, vmax=brightest)
    shown = panels[1].imshow(after, cmap="magma", vmin=0, vmax=brightest)
    _name(panels[0], f"error before: {result.error_before:.4f}")
    _name(panels[1], f"error after: {result.error_after:.4f}")
    _colour_bar(panels[1], shown, "difference from fixed, 0 to 1")


def _draw_distance(axes: Axes, result: Result) -> None:
    distance = np.hypot(*(result.found - result.true))
    shown = axes.imshow(distance, cmap="magma", vmin=0, vmax=np.quantile(distance, 0.999))
    _name(axes, f"field off by {result.field_error:.2f} px")
    _colour_bar(axes, shown, "distance from the true field, px")


def _draw_fields(panels: NDArray[Any], result: Result) -> None:
    _draw_arrows(panels[0], result.fixed, result.true)
    arrows = _draw_arrows(panels[1], result.fixed, result.found)
    _name(panels[0], "true field")
    _name(panels[1], "recovered field")
    length = float(f"{np.hypot(*result.true).max():.0e}")  # rounded to one digit
    panels[1].quiverkey(
        arrows, 0.55, -0.05, length, f"{length:g} px", labelpos="E", fontproperties={"size": LABEL}
    )


def _draw_arrows(axes: Axes, image: Floats, field: Floats) -> Any:
    """Arrows from pixels of the fixed image to their coordinates in the moving image."""
    pale = 0.75 + 0.25 * image.mean(0)
    axes.imshow(pale, cmap="gray", vmin=0, vmax=1)
    height, width = pale.shape
    spacing = width / ARROWS_ACROSS
    y = np.arange(spacing / 2, height, spacing).astype(int)
    x = np.arange(spacing / 2, width, spacing).astype(int)
    dy, dx = field[:, y[:, None], x]
    return axes.quiver(
        x,
        y,
        dx,
        dy,
        angles="xy",
        scale_units="xy",
        scale=1 / ARROW_LENGTH,
        color=ARROW_COLOUR,
        width=0.007,
        headwidth=4,
        headlength=4,
        headaxislength=4,
        minlength=0,
    )


def _name(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=TITLE)
    axes.set_axis_off()


def _colour_bar(axes: Axes, shown: Any, label: str) -> None:
    strip = axes.inset_axes((0.0, -0.06, 1.0, 0.03))
    bar = axes.figure.colorbar(shown, cax=strip, orientation="horizontal", extend="max")
    bar.ax.tick_params(labelsize=LABEL)
    bar.set_label(label, fontsize=LABEL)
