"""Pictures of where a layer looks. matplotlib is imported when one is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cudeform.geometry import Padding, Pair
from cudeform.inspect import sampling_locations
from cudeform.inspect_draw import (
    SCALED,
    Taps,
    View,
    draw_arrows,
    draw_colours,
    draw_image,
    draw_legend,
    draw_taps,
    draw_wheel,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = NDArray[Any]

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
    """
    layout = (kernel_size, stride, padding, dilation)
    places = _places(offset, layout, index)
    groups = _groups(groups, places.shape[0])
    weights = None if mask is None else _weights(mask, places, index)
    picture = _picture(image, index)
    points = _positions(positions, places.shape[-2:])
    still = _places(np.zeros((1, *_host(offset[index]).shape)), layout, 0)
    axes = _axes(ax, len(groups))
    taps_of = {
        group: [
            Taps(
                still[group, ..., oy, ox].reshape(-1, 2),
                places[group, ..., oy, ox].reshape(-1, 2),
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
        if places.shape[0] > 1:
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
    """
    layout = (kernel_size, stride, padding, dilation)
    still = _places(np.zeros((1, *_host(offset[index]).shape)), layout, 0)
    places = _places(offset, layout, index)
    groups = _groups(groups, places.shape[0])
    axes = _axes(ax, len(groups))
    taps = (1, 2)
    centres = still.mean(taps)
    shifts = places.mean(taps) - centres
    lengths = np.hypot(shifts[list(groups), 0], shifts[list(groups), 1])
    finite = lengths[np.isfinite(lengths)]
    # A few far taps must not make all others vanish.
    longest = max(float(np.quantile(finite, 0.99)), 1e-6) if finite.size else 1.0
    for panel, group in zip(axes, groups, strict=True):
        if places.shape[0] > 1:
            panel.set_title(f"offset group {group}")
        if colours:
            draw_colours(panel, shifts[group], longest)
            continue
        if image is not None:
            picture = _picture(image, index)
            draw_image(panel, picture, View.of(picture.shape[:2], [], None))
        arrows = draw_arrows(panel, centres[group], shifts[group], longest, image is not None)
    if colours:
        draw_wheel(axes[-1], longest)
    else:
        axes[-1].figure.colorbar(arrows, ax=axes, shrink=0.8, label=SCALED, extend="max")
    return axes


def _places(offset: Any, layout: tuple[Any, ...], index: int) -> Floats:
    """Positions of the taps of one image, (OG, KH, KW, 2, OH, OW)."""
    _check_index(offset, index)
    one = _host(offset[index])[None]
    places: Floats = sampling_locations(one, *layout)[0]
    return places


def _weights(mask: Any, places: Floats, index: int) -> Floats:
    """The mask of one image, (OG, KH*KW, OH, OW)."""
    _check_index(mask, index)
    groups, kernel_h, kernel_w, _, out_h, out_w = places.shape
    expected = (groups * kernel_h * kernel_w, out_h, out_w)
    one = _host(mask[index])
    if one.shape != expected:
        raise ValueError(
            "mask must have shape (N, offset_groups*KH*KW, OH, OW) = "
            f"{(len(mask), *expected)}, got {tuple(mask.shape)}"
        )
    return one.reshape(groups, kernel_h * kernel_w, out_h, out_w)


def _check_index(array: Any, index: int) -> None:
    if not hasattr(array, "shape"):
        raise TypeError(f"offset, mask and image must be arrays, got {type(array).__name__}")
    if not -array.shape[0] <= index < array.shape[0]:
        raise ValueError(f"index must be one of {array.shape[0]} images, got {index}")


def _host(array: Any) -> Floats:
    """A copy of an array as NumPy knows it, in float32 or float64."""
    if hasattr(array, "detach"):  # torch
        array = array.detach().cpu()
        array = array.double() if array.element_size() == 8 else array.float()
    elif hasattr(array, "get") and not isinstance(array, np.ndarray):  # CuPy
        array = array.get()
    array = np.asarray(array) if hasattr(array, "__array__") else np.from_dlpack(array)
    floats: Floats = array if array.dtype == np.float64 else array.astype(np.float32)
    return floats


def _picture(image: Any, index: int) -> Floats:
    """The image as imshow takes it, between 0 and 1: (H, W, 3) or (H, W)."""
    if not hasattr(image, "shape") or len(image.shape) not in (2, 3, 4):
        raise ValueError(
            "image must have shape (H, W), (C, H, W) or (N, C, H, W), "
            f"got {getattr(image, 'shape', type(image).__name__)}"
        )
    if len(image.shape) == 4:
        _check_index(image, index)
        image = image[index]
    picture = _host(image)
    if picture.ndim == 3:
        picture = picture.transpose(1, 2, 0) if len(picture) == 3 else picture.mean(0)
    finite = picture[np.isfinite(picture)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    # A flat image is drawn in the middle grey rather than divided by zero.
    scaled = (picture - low) / (high - low) if high > low else np.full_like(picture, 0.5)
    return np.nan_to_num(scaled, nan=0.0, posinf=1.0, neginf=0.0)


def _positions(
    positions: Sequence[tuple[int, int]] | None, size: Sequence[int]
) -> list[tuple[int, int]]:
    height, width = size
    if positions is None:
        return [(height // 2, width // 2)]
    for oy, ox in positions:
        if not (0 <= oy < height and 0 <= ox < width):
            raise ValueError(
                f"positions must be (oy, ox) with oy < {height} and ox < {width}, got {(oy, ox)}"
            )
    return list(positions)


def _groups(groups: Sequence[int] | None, count: int) -> list[int]:
    chosen = list(range(count)) if groups is None else list(groups)
    for group in chosen:
        if not 0 <= group < count:
            raise ValueError(f"groups must be among 0 to {count - 1}, got {group}")
    return chosen


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
