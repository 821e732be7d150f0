"""Pictures of where a layer samples. matplotlib is imported when a picture is drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np

from cudeform.inspect._displacement import (
    COLOUR_BAR,
    NO_DISPLACEMENT,
    draw_arrows,
    draw_colours,
    draw_wheel,
)
from cudeform.inspect._drawing import Taps, View, draw_image, draw_legend, draw_taps
from cudeform.inspect._inputs import (
    ImageTaps,
    chosen_groups,
    chosen_positions,
    mask_of_image,
    picture_of,
    signal_of,
)
from cudeform.inspect._signal import draw_signal_taps, range_of
from cudeform.settings import Ints, Padding

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANEL = 4.5  # inches
COLOUR_BAR_WIDTH, LEGEND_HEIGHT = 1.0, 0.8  # inches
PANELS_IN_A_ROW = 4


def plot_sampling(
    image: Any,
    offset: Any,
    kernel_size: Ints,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    mask: Any = None,
    *,
    positions: Sequence[int | Sequence[int]] | None = None,
    index: int = 0,
    groups: Sequence[int] | None = None,
    zoom: float | None = None,
    ax: Axes | Sequence[Axes] | None = None,
) -> list[Axes]:
    """Draw where the taps of some output positions sample an image.

    Rings are the taps of the regular grid. Filled circles are the same taps with the offset,
    coloured by the mask if there is one. An arrow connects the two. A cross marks a tap outside the
    image, which samples zeros; a triangle marks a tap whose location is not finite. Marks that are
    out of view are drawn at the edge of the picture. In one dimension the image is drawn as a curve
    with the taps on it.

    Args:
        image: (H, W), (C, H, W) or (N, C, H, W), of any library. Three channels are drawn in
            colour; for any other number, their mean is drawn in grey. In one dimension (W,),
            (C, W) or (N, C, W); the curve is the mean of the channels.
        offset: (N, 2*offset_groups*KH*KW, OH, OW), or (N, offset_groups*KW, OW) in one dimension,
            of any library. Volumes are not drawn.
        kernel_size: one number for all axes, or one per axis.
        stride, padding, dilation: as for :func:`deform_conv2d`.
        mask: (N, offset_groups*KH*KW, OH, OW) or (N, offset_groups*KW, OW), or None.
        positions: output positions (oy, ox), in one dimension ox, whose taps are drawn; None draws
            the middle one.
        index: index of the image in the batch.
        groups: offset groups to draw, one panel each; None draws all.
        zoom: show the taps and this many pixels around them, instead of the whole image.
        ax: axes to draw on, one per panel; None makes a new figure.

    Returns:
        The axes, one for each panel.

    Raises:
        ImportError: matplotlib is missing.
        TypeError, ValueError: as :func:`sampling_locations`; also if a position, an image or a
            group does not exist.

    Example:
        >>> import numpy as np, cudeform
        >>> image, offset = np.eye(16), np.zeros((1, 2 * 3 * 3, 16, 16))
        >>> offset[:, 2 * 4] = 3.0  # dy of the middle tap
        >>> (panel,) = cudeform.plot_sampling(image, offset, kernel_size=3, padding=1, zoom=2)
        >>> panel.figure.savefig("taps.png")  # doctest: +SKIP
    """
    image_taps = ImageTaps.of(offset, (kernel_size, stride, padding, dilation), index)
    groups = chosen_groups(groups, image_taps.offset_groups)
    weights = None if mask is None else mask_of_image(mask, image_taps, index)
    drawn_positions = chosen_positions(positions, image_taps.out_size)
    taps_of = {
        group: [
            Taps(
                *image_taps.at(group, position),
                None if weights is None else weights[group][:, *position],
            )
            for position in drawn_positions
        ]
        for group in groups
    }
    draw = _panel_of(image, index, [each for taps in taps_of.values() for each in taps], zoom)
    axes = panels_of(ax, len(groups))
    for panel, group in zip(axes, groups, strict=True):
        shown = draw(panel, taps_of[group])
        if image_taps.offset_groups > 1:
            panel.set_title(f"offset group {group}")
        if weights is not None and panel is axes[-1]:
            panel.figure.colorbar(shown, ax=axes, shrink=0.8, label="mask")
    drawn = [marks for panel in axes for marks in panel.collections]
    # Put the legend below the middle panel of a short row, where it does not displace a panel.
    draw_legend(axes[len(axes) // 2 if len(axes) < 4 else 0], drawn, weights is not None)
    return axes


def _panel_of(
    image: Any, index: int, taps: list[Taps], zoom: float | None
) -> Callable[[Axes, list[Taps]], Any]:
    """A function that draws an image and some of its taps, and returns the sampled marks.

    All panels show the same area, which depends on all ``taps``.
    """
    if taps[0].regular.shape[1] == 1:
        signal = signal_of(image, index)
        shown = range_of(len(signal), taps, zoom)
        return lambda panel, some: draw_signal_taps(panel, signal, some, shown)
    picture = picture_of(image, index)
    view = View.of(picture.shape[:2], taps, zoom)

    def draw(panel: Axes, some: list[Taps]) -> Any:
        draw_image(panel, picture, view)
        return draw_taps(panel, some, view)

    return draw


def plot_displacement(
    offset: Any,
    kernel_size: Ints,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    *,
    image: Any = None,
    index: int = 0,
    groups: Sequence[int] | None = None,
    colours: bool = False,
    ax: Axes | Sequence[Axes] | None = None,
) -> list[Axes]:
    """Draw the mean displacement of the taps of every output position.

    Args:
        offset: (N, 2*offset_groups*KH*KW, OH, OW), of any library.
        kernel_size, stride, padding, dilation: as for :func:`plot_sampling`.
        image: image to draw behind the arrows, as in :func:`plot_sampling`, or None.
        index: index of the image in the batch.
        groups: offset groups to draw, one panel each; None draws all.
        colours: draw each position in a colour instead of an arrow, without the image. The hue
            shows the direction, the saturation the length; a colour wheel is the legend.
        ax: axes to draw on, one per panel; None makes a new figure.

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
    settings = kernel_size, stride, padding, dilation
    image_taps = ImageTaps.of(offset, settings, index, axes=(2,))
    groups = chosen_groups(groups, image_taps.offset_groups)
    axes = panels_of(ax, len(groups))
    tap_axes = (1, 2)
    centres = image_taps.regular.mean(tap_axes)
    displacements = image_taps.sampled.mean(tap_axes) - centres
    lengths = np.hypot(displacements[groups, 0], displacements[groups, 1])
    finite = lengths[np.isfinite(lengths)]
    # The quantile keeps a few long displacements from making all others invisible.
    longest = max(float(np.quantile(finite, 0.99)), NO_DISPLACEMENT) if finite.size else 1.0
    for panel, group in zip(axes, groups, strict=True):
        if image_taps.offset_groups > 1:
            panel.set_title(f"offset group {group}")
        if colours:
            draw_colours(panel, displacements[group], longest)
            continue
        if image is not None:
            picture = picture_of(image, index)
            draw_image(panel, picture, View.of(picture.shape[:2], [], None))
        on_image = image is not None
        arrows = draw_arrows(panel, centres[group], displacements[group], longest, on_image)
    if colours:
        draw_wheel(axes[-1], longest)
    else:
        axes[-1].figure.colorbar(arrows, ax=axes, shrink=0.8, label=COLOUR_BAR, extend="max")
    return axes


def panels_of(ax: Axes | Sequence[Axes] | None, panels: int) -> list[Axes]:
    """The axes to draw on: the caller's, or those of a new figure."""
    if ax is not None:
        given = list(np.ravel(np.asarray(ax, dtype=object)))
        if len(given) != panels:
            raise ValueError(
                f"ax must have one axes object for each of {panels} panels, got {len(given)}"
            )
        return given
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install matplotlib") from error
    across = min(panels, PANELS_IN_A_ROW)
    down = ceil(panels / across)
    _, made = pyplot.subplots(
        down,
        across,
        figsize=(PANEL * across + COLOUR_BAR_WIDTH, (PANEL + LEGEND_HEIGHT) * down),
        squeeze=False,
        layout="constrained",
    )
    for spare in made.flat[panels:]:
        spare.set_axis_off()
    return list(made.flat[:panels])
