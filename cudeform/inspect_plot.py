"""Pictures of where a layer looks. matplotlib is imported when one is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cudeform.geometry import Padding, Pair
from cudeform.inspect import sampling_locations

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = NDArray[Any]

PANEL = 4.5  # inches
BESIDE = 1.0  # inches, for a colour bar
WIDEST_ROW = 4  # panels
TAP_COLOURS = "plasma"
PLAIN_TAP = "#ffd92f"
MASKED_TAP = "#b12a90"
REGULAR = "#1f78b4"
OUTSIDE = "#ff3b30"
PALE = 0.45  # how far images are drawn towards white, so that marks stand out
MARGIN = 0.12  # of the image, for taps that are outside
ARROWS_ACROSS = 16
LEAST_MARK, LARGEST_MARK = 5.0, 9.5  # points
BELOW = -0.14  # of a panel, where its legend begins
SCALED = "mean displacement, px"


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
    for panel, group in zip(axes, groups, strict=True):
        taps = [
            _Taps(
                still[group, ..., oy, ox].reshape(-1, 2),
                places[group, ..., oy, ox].reshape(-1, 2),
                None if weights is None else weights[group, :, oy, ox],
            )
            for oy, ox in points
        ]
        view = _View.of(picture.shape[:2], taps, zoom)
        _draw_image(panel, picture, view)
        shown = _draw_taps(panel, taps, view)
        if places.shape[0] > 1:
            panel.set_title(f"offset group {group}")
        if weights is not None and panel is axes[-1]:
            panel.figure.colorbar(shown, ax=axes, shrink=0.8, label="mask")
    _draw_legend(
        axes[0], [taps for panel in axes for taps in panel.collections], weights is not None
    )
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
            _draw_colours(panel, shifts[group], longest)
            continue
        if image is not None:
            picture = _picture(image, index)
            _draw_image(panel, picture, _View.of(picture.shape[:2], [], None))
        arrows = _draw_arrows(panel, centres[group], shifts[group], longest, image is not None)
    if colours:
        _draw_wheel(axes[-1], longest)
    else:
        axes[-1].figure.colorbar(arrows, ax=axes, shrink=0.8, label=SCALED, extend="max")
    return axes


@dataclass(frozen=True)
class _Taps:
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
class _View:
    """What a panel shows: an image of ``size`` between two corners (y, x)."""

    size: tuple[int, int]
    first: Floats
    last: Floats

    @classmethod
    def of(cls, size: tuple[int, int], taps: list[_Taps], zoom: float | None) -> _View:
        """The whole image and taps not far from it, or the surroundings of the taps."""
        corner = np.array(size, dtype=float) - 0.5
        places = [np.concatenate((each.still, each.moved)) for each in taps]
        ends = np.concatenate(places) if places else np.zeros((0, 2))
        ends = ends[np.isfinite(ends).all(1)]
        if zoom is None:
            reach = MARGIN * max(size)
            near = ends[((ends > -reach) & (ends < corner + reach)).all(1)]
            beyond = bool(((ends < -0.5) | (ends > corner)).any())
            ends = np.concatenate((near, [[-0.5, -0.5], corner]))
            pad = MARGIN / 3 * max(size) if beyond else 0.0
            return cls(size, ends.min(0).clip(None, -0.5) - pad, ends.max(0) + pad)
        # Far taps stay out of a close view: it is as wide as most of the taps need.
        middle, far = np.median(ends, 0), np.quantile(np.abs(ends - np.median(ends, 0)), 0.98)
        near = ends[(np.abs(ends - middle) <= far).all(1)]
        near = ends if len(near) == 0 else near
        return cls(size, near.min(0) - zoom, near.max(0) + zoom)

    def clip(self, places: Floats) -> Floats:
        """The places, those that are out of view at its edge."""
        room = 0.02 * (self.last - self.first)
        return np.nan_to_num(places, nan=0.0).clip(self.first + room, self.last - room)

    def inside(self, places: Floats) -> NDArray[np.bool_]:
        """Which places sample something."""
        return ((places > -1) & (places < np.array(self.size))).all(1)


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
    array = np.asarray(array)
    return array if array.dtype == np.float64 else array.astype(np.float32)


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
    figure, made = pyplot.subplots(
        down,
        across,
        figsize=(PANEL * across + BESIDE, PANEL * down),
        squeeze=False,
        layout="constrained",
    )
    for spare in made.flat[panels:]:
        spare.set_axis_off()
    del figure
    return list(made.flat[:panels])


def _draw_image(panel: Axes, picture: Floats, view: _View) -> None:
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


def _draw_taps(panel: Axes, taps: list[_Taps], view: _View) -> Any:
    """Draw all taps; returns what a colour bar is made from."""
    points = 50 * PANEL / float((view.last - view.first).max())  # of the panel, a pixel
    mark = min(LARGEST_MARK, max(LEAST_MARK, 0.6 * points * taps[0].spacing))
    size = mark**2
    still = np.concatenate([each.still for each in taps])
    moved = np.concatenate([each.moved for each in taps])
    finite, inside = np.isfinite(moved).all(1), view.inside(moved)
    drawn = view.clip(np.where(np.isfinite(moved), moved, still))
    _draw_links(panel, still, drawn, finite)
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


def _draw_links(panel: Axes, still: Floats, drawn: Floats, finite: Any) -> None:
    """Arrows from the regular taps to the displaced ones."""
    panel.quiver(
        still[finite, 1],
        still[finite, 0],
        (drawn - still)[finite, 1],
        (drawn - still)[finite, 0],
        angles="xy",
        scale_units="xy",
        scale=1,
        width=0.005,
        color="black",
        headwidth=4,
        headlength=5,
        headaxislength=4.5,
        zorder=4,
        minlength=0,
    )


def _draw_legend(panel: Axes, drawn: Sequence[Any], masked: bool) -> None:
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
        bbox_to_anchor=(0.5, BELOW),
        ncols=min(3, len(entries)),
        fontsize=8.5,
        frameon=False,
        handletextpad=0.1,
        columnspacing=1.0,
    )


def _draw_arrows(panel: Axes, centre: Floats, shift: Floats, longest: float, on_image: bool) -> Any:
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


def _draw_colours(panel: Axes, shift: Floats, longest: float) -> None:
    panel.imshow(_wheel(shift, longest), interpolation="nearest")
    panel.set_xlabel("output x")
    panel.set_ylabel("output y")


def _draw_wheel(panel: Axes, longest: float) -> None:
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
