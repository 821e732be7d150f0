"""Pictures of where deformable attention looks. matplotlib is imported when a picture is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cudeform.inspect._drawing import MARGIN, View, draw_image
from cudeform.inspect._inputs import picture_of
from cudeform.inspect._namespace import Floats, import_foreign, to_numpy
from cudeform.inspect.plots import panels_of
from cudeform.sums.settings import SpatialShapes, as_tuple, levels_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WEIGHT_COLOURS = "plasma"
PLAIN, OUTSIDE = "#ffd92f", "#ff3b30"
MARKERS = "os^DvP*X"  # one for each head, then again
MARK = 7.0  # points
GRID_UP_TO = 32  # pixels of a level whose borders are drawn


def plot_attention(
    image: Any,
    spatial_shapes: SpatialShapes,
    sampling_locations: Any,
    attention_weights: Any = None,
    *,
    points: Sequence[int] | None = None,
    queries: Sequence[int] = (0,),
    heads: Sequence[int] | None = None,
    index: int = 0,
    ax: Axes | Sequence[Axes] | None = None,
) -> list[Axes]:
    """Draw the points that some queries sample, one panel for each level.

    A panel shows the image as coarse as the level is, and lines between the level's pixels if there
    are few. The mark of a point has the shape of its head and, if there are weights, the colour of
    its weight. A point in red samples zeros only; one outside the picture is drawn at its edge.

    Args:
        image: (H, W), (C, H, W) or (N, C, H, W), of any library; what the levels are computed from.
        spatial_shapes: (height, width) of each level.
        sampling_locations: as for :func:`ms_deform_attn`, of any library: normalized, x first.
        attention_weights: as for :func:`ms_deform_attn`, or None.
        points: number of points on each level, for locations (N, Lq, M, sum of points, 2).
        queries: queries whose points are drawn.
        heads: heads to draw; None draws all.
        index: index of the image in the batch.
        ax: axes to draw on, one for each level; None makes a new figure.

    Returns:
        The axes, one for each level.

    Raises:
        ImportError: matplotlib is missing.
        TypeError, ValueError: the shapes do not fit, or a query, head or image does not exist.

    Example:
        >>> import numpy as np, cudeform
        >>> rng = np.random.default_rng(0)
        >>> locations = rng.random((1, 5, 2, 2, 4, 2))  # 5 queries, 2 heads, 2 levels, 4 points
        >>> fine, coarse = cudeform.plot_attention(np.eye(32), [(16, 16), (8, 8)], locations)
        >>> coarse.get_title()
        'level 1: 8 x 8'
    """
    shapes = levels_of(spatial_shapes)
    levels = _levels(import_foreign(sampling_locations), shapes, points, index)
    weights: list[Floats | None] = [None] * len(shapes)
    if attention_weights is not None:
        weights = [
            each[..., 0]
            for each in _levels(
                import_foreign(attention_weights), shapes, points, index, pairs=False
            )
        ]
    chosen = _chosen("heads", range(levels[0].shape[1]) if heads is None else heads, levels[0], 1)
    drawn_queries = _chosen("queries", queries, levels[0], 0)
    picture = picture_of(image, index)
    axes = panels_of(ax, len(shapes))
    brightest = max(
        (float(each[drawn_queries].max()) for each in weights if each is not None), default=1.0
    )
    for number, (panel, size) in enumerate(zip(axes, shapes, strict=True)):
        _draw_level(panel, picture, size)
        panel.set_title(f"level {number}: {size[0]} x {size[1]}")
        for head in chosen:
            at = levels[number][drawn_queries, head].reshape(-1, 2)
            weight = weights[number]
            colour = None if weight is None else weight[drawn_queries, head].ravel()
            shown = _draw_points(panel, at, colour, MARKERS[head % len(MARKERS)], size, brightest)
    if attention_weights is not None:
        axes[0].figure.colorbar(shown, ax=axes, shrink=0.8, label="weight")
    return axes


def _levels(
    array: Any,
    shapes: Sequence[tuple[int, int]],
    points: Sequence[int] | None,
    index: int,
    *,
    pairs: bool = True,
) -> list[Floats]:
    """Locations of one image in pixels, or its weights: (Lq, heads, points, 2 or 1) of a level."""
    name = "sampling_locations" if pairs else "attention_weights"
    axes = (5 if points is None else 4) + pairs
    shape = tuple(getattr(array, "shape", ()))
    if len(shape) != axes or (points is None and shape[3] != len(shapes)):
        text = "N, Lq, heads, levels, points" if points is None else "N, Lq, heads, sum of points"
        raise ValueError(
            f"{name} must have shape ({text}{', 2' * pairs}) with {len(shapes)} levels, got {shape}"
        )
    if not -shape[0] <= index < shape[0]:
        raise ValueError(f"index must be one of {shape[0]} images, got {index}")
    one = to_numpy(array[index])
    one = one if pairs else one[..., None]
    if points is None:
        parts = [one[:, :, level] for level in range(len(shapes))]
    else:
        ends = np.cumsum(as_tuple("points", points))
        if ends[-1] != one.shape[2]:
            raise ValueError(f"points must add up to {one.shape[2]}, got {tuple(points)}")
        parts = np.split(one, ends[:-1], axis=2)
    if not pairs:
        return parts
    return [part * size[::-1] - 0.5 for part, size in zip(parts, shapes, strict=True)]


def _chosen(name: str, numbers: Sequence[int], array: Floats, axis: int) -> list[int]:
    count = array.shape[axis]
    for number in numbers:
        if not 0 <= number < count:
            raise ValueError(f"{name} must be from 0 to {count - 1}, got {number}")
    if not len(numbers):
        raise ValueError(f"{name} must name at least one, got none")
    return list(numbers)


def _draw_level(panel: Axes, picture: Floats, size: tuple[int, int]) -> None:
    """Draw an image as coarse as a level, with the borders of the level's pixels."""
    pad = MARGIN / 3 * max(size)
    last = np.array(size) - 0.5
    draw_image(panel, _resized(picture, size), View(size, -0.5 - np.full(2, pad), last + pad))
    if max(size) <= GRID_UP_TO:
        height, width = size
        style: dict[str, Any] = {"colors": "white", "linewidths": 0.4, "alpha": 0.7, "zorder": 1.2}
        panel.vlines(np.arange(width - 1) + 0.5, -0.5, height - 0.5, **style)
        panel.hlines(np.arange(height - 1) + 0.5, -0.5, width - 0.5, **style)


def _resized(picture: Floats, size: tuple[int, int]) -> Floats:
    """An image of another size: means of its pixels, or the nearest where it has too few."""
    for axis, wanted in enumerate(size):
        length = picture.shape[axis]
        first = np.arange(wanted) * length // wanted
        if length < wanted:
            picture = picture.take(first, axis)
            continue
        count = np.diff(np.append(first, length))
        shape = [-1 if each == axis else 1 for each in range(picture.ndim)]
        picture = np.add.reduceat(picture, first, axis) / count.reshape(shape)
    return picture


def _draw_points(
    panel: Axes, at: Floats, weight: Floats | None, marker: str, size: tuple[int, int], top: float
) -> Any:
    """Draw points (x, y) of one head; return their marks for a colour bar."""
    height, width = size
    finite = np.isfinite(at).all(1)
    inside = finite & (at > -1).all(1) & (at < (width, height)).all(1)
    left, right = sorted(panel.get_xlim())
    above, below = sorted(panel.get_ylim())
    room = 0.02 * max(size)
    shown = np.where(np.isfinite(at), at, -1.0).clip(
        (left + room, above + room), (right - room, below - room)
    )
    style: dict[str, Any] = {"marker": marker, "s": MARK**2, "edgecolors": "black"}
    colour: dict[str, Any] = {"color": PLAIN}
    if weight is not None:
        colour = {"c": weight[inside], "cmap": WEIGHT_COLOURS, "vmin": 0, "vmax": top}
    style |= {"linewidths": 0.7, "zorder": 5}
    (x, y), (outside_x, outside_y) = shown[inside].T, shown[~inside].T
    panel.scatter(outside_x, outside_y, color=OUTSIDE, **style)
    return panel.scatter(x, y, **style, **colour)
