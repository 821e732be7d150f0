"""Pictures of where a layer looks. matplotlib is imported when one is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np

from cudeform.geometry import Padding, Pair
from cudeform.inspect.fields import SCALED, draw_arrows, draw_colours, draw_wheel
from cudeform.inspect.inputs import (
    Field,
    chosen_groups,
    chosen_positions,
    picture_of,
    weights_of,
)
from cudeform.inspect.taps import draw_legend, draw_taps
from cudeform.inspect.view import Taps, View, draw_image

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANEL = 4.5  # inches
BESIDE, BENEATH = 1.0, 0.8  # inches, for a colour bar and a legend
WIDEST_ROW = 4  # panels


def plot_sampling(
    image: Any,
    offset: Any,
    kernel_size: Pair,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    mask: Any = None,
    *,
    positions: Sequence[tuple[int, int]] | None = None,
    index: int = 0,
    groups: Sequence[int] | None = None,
    zoom: float | None = None,
    ax: Axes | Sequence[Axes] | None = None,
) -> list[Axes]:
    """Draw where the taps of some output positions sample an image.

    Rings are the taps of the regular grid, filled circles those that the offset sends elsewhere,
    coloured by the mask if there is one, with an arrow between the two. A cross marks a tap outside
    of the image, which samples zeros; where it lies far away, it is drawn at the edge of the
    picture. A triangle there marks a tap that is not finite.

    Args:
        image: (H, W), (C, H, W) or (N, C, H, W), of any library: three channels are shown as
            colours, others as their mean in grey, from the darkest value to the brightest.
        offset: (N, 2*offset_groups*KH*KW, OH, OW), of any library.
        kernel_size: KH and KW, or one number for both.
        stride, padding, dilation: as for :func:`deform_conv2d`.
        mask: (N, offset_groups*KH*KW, OH, OW), or None.
        positions: output positions (oy, ox) whose taps are drawn; None takes the middle one.
        index: which image of the batch.
        groups: offset groups to draw, a panel each; None takes all.
        zoom: show the taps and this many pixels around them, instead of the whole image.
        ax: axes to draw on, as many as there are panels; None makes a figure.

    Returns:
        The axes, one for each panel.

    Raises:
        ImportError: matplotlib is missing.
        TypeError, ValueError: as :func:`sampling_locations`, or for a position, an image or a group
            that does not exist.

    Example:
        >>> import numpy as np, cudeform
        >>> image, offset = np.eye(16), np.zeros((1, 2 * 3 * 3, 16, 16))
        >>> offset[:, 2 * 4] = 3.0  # dy of the middle tap
        >>> (panel,) = cudeform.plot_sampling(image, offset, kernel_size=3, padding=1, zoom=2)
        >>> panel.figure.savefig("taps.png")  # doctest: +SKIP
    """
    field = Field.of(offset, (kernel_size, stride, padding, dilation), index)
    groups = chosen_groups(groups, field.offset_groups)
    weights = None if mask is None else weights_of(mask, field, index)
    picture = picture_of(image, index)
    points = chosen_positions(positions, field.moved.shape[-2:])
    axes = _axes(ax, len(groups))
    taps_of = {
        group: [
            Taps(
                field.still[group, ..., oy, ox].reshape(-1, 2),
                field.moved[group, ..., oy, ox].reshape(-1, 2),
                None if weights is None else weights[group, :, oy, ox],
            )
            for oy, ox in points
        ]
        for group in groups
    }
    view = View.of(picture.shape[:2], [each for taps in taps_of.values() for each in taps], zoom)
    for panel, group in zip(axes, groups, strict=True):
        taps = taps_of[group]
        draw_image(panel, picture, view)
        shown = draw_taps(panel, taps, view)
        if field.offset_groups > 1:
            panel.set_title(f"offset group {group}")
        if weights is not None and panel is axes[-1]:
            panel.figure.colorbar(shown, ax=axes, shrink=0.8, label="mask")
    drawn = [marks for panel in axes for marks in panel.collections]
    # In the middle of a short row, where it pushes no panel aside.
    draw_legend(axes[len(axes) // 2 if len(axes) < 4 else 0], drawn, weights is not None)
    return axes


def plot_displacement(
    offset: Any,
    kernel_size: Pair,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    *,
    image: Any = None,
    index: int = 0,
    groups: Sequence[int] | None = None,
    colours: bool = False,
    ax: Axes | Sequence[Axes] | None = None,
) -> list[Axes]:
    """Draw, for all output positions, where their taps are displaced to on average.

    Args:
        offset: (N, 2*offset_groups*KH*KW, OH, OW), of any library.
        kernel_size, stride, padding, dilation: as for :func:`plot_sampling`.
        image: drawn behind the arrows, as in :func:`plot_sampling`; None for none.
        index: which image of the batch.
        groups: offset groups to draw, a panel each; None takes all.
        colours: a colour for each position instead of arrows: its hue is the direction, its
            strength the length, as the wheel in the corner explains. No image is drawn then.
        ax: axes to draw on, as many as there are panels; None makes a figure.

    Returns:
        The axes, one for each panel.

    Raises:
        ImportError, TypeError, ValueError: as :func:`plot_sampling`.

    Example:
        >>> import numpy as np, cudeform
        >>> offset = np.random.default_rng(0).normal(0, 1, (1, 2 * 2 * 3 * 3, 16, 16))
        >>> first, second = cudeform.plot_displacement(offset, kernel_size=3, padding=1)
        >>> second.get_title()
        'offset group 1'
    """
    field = Field.of(offset, (kernel_size, stride, padding, dilation), index)
    groups = chosen_groups(groups, field.offset_groups)
    axes = _axes(ax, len(groups))
    taps = (1, 2)
    centres = field.still.mean(taps)
    shifts = field.moved.mean(taps) - centres
    lengths = np.hypot(shifts[groups, 0], shifts[groups, 1])
    finite = lengths[np.isfinite(lengths)]
    # A few far taps must not make all others vanish.
    longest = max(float(np.quantile(finite, 0.99)), 1e-6) if finite.size else 1.0
    for panel, group in zip(axes, groups, strict=True):
        if field.offset_groups > 1:
            panel.set_title(f"offset group {group}")
        if colours:
            draw_colours(panel, shifts[group], longest)
            continue
        if image is not None:
            picture = picture_of(image, index)
            draw_image(panel, picture, View.of(picture.shape[:2], [], None))
        arrows = draw_arrows(panel, centres[group], shifts[group], longest, image is not None)
    if colours:
        draw_wheel(axes[-1], longest)
    else:
        axes[-1].figure.colorbar(arrows, ax=axes, shrink=0.8, label=SCALED, extend="max")
    return axes


def _axes(ax: Axes | Sequence[Axes] | None, panels: int) -> list[Axes]:
    """The axes to draw on: the caller's, or new ones in rows."""
    if ax is not None:
        given = list(np.ravel(np.asarray(ax, dtype=object)))
        if len(given) != panels:
            raise ValueError(
                f"ax must be one of axes for each of {panels} panels, got {len(given)}"
            )
        return given
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install matplotlib") from error
    across = min(panels, WIDEST_ROW)
    down = ceil(panels / across)
    _, made = pyplot.subplots(
        down,
        across,
        figsize=(PANEL * across + BESIDE, (PANEL + BENEATH) * down),
        squeeze=False,
        layout="constrained",
    )
    for spare in made.flat[panels:]:
        spare.set_axis_off()
    return list(made.flat[:panels])
