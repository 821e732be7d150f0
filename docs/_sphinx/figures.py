"""Figures of the pages, drawn by ``plot_sampling`` and ``plot_displacement`` at every build."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import cbook, image, pyplot

import cudeform

# Pages are 7.4 inches wide, at 100 pixels an inch; twice as many for sharp screens.
DPI = 200
STYLE = {"font.size": 9, "axes.titlesize": 10}


def photo() -> Any:
    """A photograph that comes with matplotlib, (3, 128, 128)."""
    with cbook.get_sample_data("grace_hopper.jpg") as file:
        pixels = image.imread(file, format="jpg")[40:424:3, 64:448:3]
    return pixels.transpose(2, 0, 1) / np.float32(255)


def draw_all(folder: Path) -> None:
    """Draw every figure into ``folder``, as PNG."""
    folder.mkdir(exist_ok=True)
    for draw in (hero, order, one_channel, groups, mask, boundary, fields, attention):
        with matplotlib.style.context(["default", STYLE]):
            figure = draw()
            figure.savefig(folder / f"{draw.__name__}.png", dpi=DPI, bbox_inches="tight")
            pyplot.close(figure)


def hero() -> Any:
    """Two positions of a layer whose taps are drawn to the face, and its field."""
    y, x = np.mgrid[:128, :128]
    toward = np.stack((58 - y, 64 - x)) / 128.0  # the middle of the face draws the taps
    rng = np.random.default_rng(3)
    offset = 22 * toward[None, None] + rng.normal(0, 3.0, (1, 9, 2, 128, 128))
    offset = offset.reshape(1, 18, 128, 128)
    weights = 1 / (1 + np.exp(-rng.normal(0.5, 1.5, (1, 9, 128, 128))))
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(7.8, 3.5), layout="constrained")
    positions = [(30, 32), (96, 98)]
    layout = {"kernel_size": 3, "padding": 13, "dilation": 13}
    cudeform.plot_sampling(photo(), offset, **layout, mask=weights, positions=positions, ax=left)
    cudeform.plot_displacement(offset, **layout, image=photo(), ax=right)
    left.set_title("plot_sampling: two outputs")
    right.set_title("plot_displacement: all, on average")
    return figure


def order() -> Any:
    """Channel numbers at the taps of a kernel."""
    figure, panel = pyplot.subplots(figsize=(4.2, 3.3), layout="constrained")
    for i in range(3):
        for j in range(3):
            tap = 3 * i + j
            box = {"boxstyle": "round,pad=0.5", "facecolor": "#dceaf6", "edgecolor": "#1f78b4"}
            text = f"tap ({i}, {j})\ndy: {2 * tap}\ndx: {2 * tap + 1}\nmask: {tap}"
            panel.text(j, i, text, ha="center", va="center", bbox=box)
    panel.set_xlim(-0.6, 2.6)
    panel.set_ylim(2.6, -0.6)
    panel.set_xticks(range(3), [f"j = {j}" for j in range(3)])
    panel.set_yticks(range(3), [f"i = {i}" for i in range(3)])
    panel.set_title("channels of offset and mask, 3x3 kernel, group 0")
    for side in panel.spines.values():
        side.set_visible(False)
    panel.tick_params(length=0)
    return figure


def one_channel() -> Any:
    """What +2 in an even and in an odd channel does."""
    checks = (np.indices((9, 9)).sum(0) % 2 * 0.25 + 0.6)[None]
    figure, panels = pyplot.subplots(1, 2, figsize=(7.4, 4), layout="constrained")
    for panel, channel, name in zip(panels, (8, 9), ("dy", "dx"), strict=True):
        offset = np.zeros((1, 18, 9, 9))
        offset[:, channel] = 2.0
        cudeform.plot_sampling(checks, offset, 3, padding=1, ax=panel)
        panel.set_title(f"channel {channel}: {name} of tap (1, 1) is +2")
    return figure


def groups() -> Any:
    """Three groups of a layer."""
    rng = np.random.default_rng(0)
    offset = rng.normal(0, 1.0, (1, 3, 9, 2, 128, 128))
    y, x = np.mgrid[-1:2, -1:2].reshape(2, 9, 1, 1)
    offset[0, 1, :, 0] += 9 * y  # wider
    offset[0, 1, :, 1] += 9 * x
    offset[0, 2, :, 0] += 14  # down and to the right
    offset[0, 2, :, 1] += 22
    figure, panels = pyplot.subplots(1, 3, figsize=(7.6, 3.2), layout="constrained")
    cudeform.plot_sampling(
        photo(),
        offset.reshape(1, 54, 128, 128),
        3,
        padding=9,
        dilation=9,
        positions=[(60, 50)],
        zoom=8,
        ax=panels,
    )
    return figure


def mask() -> Any:
    """Taps coloured by a mask that keeps the taps on the hat."""
    rng = np.random.default_rng(5)
    offset = rng.normal(0, 3.5, (1, 50, 128, 128))
    where = cudeform.sampling_locations(offset, 5, padding=14, dilation=7)
    dark = photo().mean(0)
    y, x = (where[0, 0, :, :, axis].clip(0, 127).astype(int) for axis in (0, 1))
    weights = 1 / (1 + np.exp(18 * (dark[y, x] - 0.35)))
    (panel,) = cudeform.plot_sampling(
        photo(),
        offset,
        5,
        padding=14,
        dilation=7,
        mask=weights.reshape(1, 25, 128, 128),
        positions=[(28, 62)],
        zoom=10,
    )
    panel.set_title("a mask that keeps the taps on dark pixels")
    return panel.figure


def boundary() -> Any:
    """A sample's value along y, and its two gradients; and taps beyond an image."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(7.8, 3.7), layout="constrained")
    constant, weight = np.full((1, 1, 3, 1), 7.0), np.ones((1, 1, 1, 1))
    y = np.round(np.arange(-2, 4.001, 0.01), 2)
    offset = np.zeros((1, 2, 3, 1))
    values = []
    for each in y:
        offset[0, 0, 0, 0] = each
        values.append(cudeform.deform_conv2d(constant, offset, weight)[0, 0, 0, 0])
    left.axvspan(-0.5, 2.5, color="#dceaf6", label="the image, H = 3")
    left.plot(y, values, color="#1f78b4", linewidth=2.5)
    known = {-1: 0.0, -0.5: 3.5, 0: 7.0, 2: 7.0, 2.5: 3.5, 3: 0.0}
    left.plot(list(known), list(known.values()), "o", color="black")
    for at, value in known.items():
        left.annotate(
            f"{value:g}",
            (at, value),
            xytext=(-14 if at < 1 else 14, 5),
            textcoords="offset points",
            ha="center",
        )
    left.set_ylim(-0.6, 8.2)
    left.set_xlabel("y of the sample")
    left.set_ylabel("value, all pixels are 7")
    left.set_title("it fades within one pixel of the edge")
    left.legend(loc="lower center", bbox_to_anchor=(0.5, 0.12))
    taps = np.zeros((1, 18, 6, 6))
    taps[0, 0, 1, 1], taps[0, 1, 1, 1] = -0.6, -0.5
    taps[0, 2, 1, 1], taps[0, 6, 1, 1], taps[0, 7, 1, 1] = -1.4, 0.4, -1.3
    checks = (np.indices((6, 6)).sum(0) % 2 * 0.25 + 0.6)[None]
    cudeform.plot_sampling(checks, taps, 3, padding=1, positions=[(1, 1)], zoom=1.5, ax=right)
    right.set_title("two taps are outside")
    return figure


def fields() -> Any:
    """A mean displacement as arrows and as colours."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(7.8, 3.2), layout="constrained")
    cudeform.plot_displacement(_swirl(), 3, padding=1, image=photo(), ax=left)
    cudeform.plot_displacement(_swirl(), 3, padding=1, colours=True, ax=right)
    left.set_title("as arrows")
    right.set_title("as colours")
    return figure


def attention() -> Any:
    """Where one query looks, with a new layer's rays around a cheek."""
    shapes, heads, points = [(20, 20), (10, 10), (5, 5)], 4, 3
    rng = np.random.default_rng(1)
    angles = 2 * np.pi * np.arange(heads) / heads + 0.4
    rays = (
        np.stack((np.cos(angles), np.sin(angles)), -1)[:, None, None]
        * np.arange(1, points + 1)[:, None]
    )
    sizes = np.array(shapes)[:, None, ::-1]
    locations = np.array([0.58, 0.46]) + (rays + rng.normal(0, 0.25, rays.shape)) / sizes
    weights = np.exp(rng.normal(0, 0.8, locations.shape[:-1]))
    weights /= weights.sum((1, 2), keepdims=True)
    figure, panels = pyplot.subplots(1, 3, figsize=(9.6, 3.2), layout="constrained")
    cudeform.plot_attention(photo(), shapes, locations[None, None], weights[None, None], ax=panels)
    return figure


def _swirl() -> Any:
    y, x = np.mgrid[:128, :128] - 63.5
    around = np.stack((x, -y)) * np.exp(-(y**2 + x**2) / 2 / 30**2) / 6
    return np.broadcast_to(around, (9, 2, 128, 128)).reshape(1, 18, 128, 128)


if __name__ == "__main__":
    draw_all(Path(__file__).parents[1] / "_generated")
