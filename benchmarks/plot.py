"""Draw results of ``python -m cudeform bench --json FILE``: a group of bars for each configuration.

python benchmarks/plot.py FILE.json -o plot.png [--cache cold] [--mode fp16 ...] [--forced]

The time axis is logarithmic. There is a panel per direction; on a GPU, a row of panels per mode.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# cudeform is blue. Contestants that compute something else are grey.
COLORS = {
    "cudeform": "#1b6ca8",
    "on CuPy": "#62a8d9",
    "torchvision": "#e07b39",
    "onnxruntime": "#8a5fb0",
    "convolution": "#8c8c8c",
    "products": "#c4c4c4",
}
OTHERS = ("#2a9d8f", "#8ab17d", "#d1495b", "#edae49", "#66a182", "#7d4f50", "#b56576")
DIRECTIONS = {"forward": "forward", "backward": "backward", "both": "forward and backward"}
FORCED = ("path ", "scatter ")


@dataclass(frozen=True)
class Bars:
    """The bars of one panel.

    Attributes:
        title: title of the panel.
        groups: names of the configurations.
        times: for each contestant, milliseconds per configuration; None if not measured.
    """

    title: str
    groups: list[str]
    times: dict[str, list[float | None]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Read a file of results, draw them, and write the picture."""
    parser = argparse.ArgumentParser(description="Draw the results of a benchmark.")
    parser.add_argument("file", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--cache", choices=("cold", "warm"), help="on a GPU (default: cold)")
    parser.add_argument("--mode", nargs="+", help="on a GPU (default: all that were measured)")
    parser.add_argument("--forced", action="store_true", help="also draw forced paths and scatters")
    options = parser.parse_args(arguments)
    report = json.loads(options.file.read_text(encoding="utf-8"))
    if "measurements" not in report:
        parser.error(f"{options.file} holds no results of bench")
    if "gpu" not in report and (options.cache or options.mode or options.forced):
        parser.error("--cache, --mode and --forced have no effect on results of a CPU")
    cache = options.cache or "cold"
    rows = panels(report, cache, options.mode, forced=options.forced)
    if not rows:
        parser.error(f"{options.file} has nothing to draw")
    figure = draw(rows, heading(report, cache))
    figure.savefig(options.output, dpi=130)
    plt.close(figure)


def heading(report: dict[str, Any], cache: str) -> str:
    """Machine and date."""
    if "gpu" in report:
        return f"{report['gpu']}, {report['date']}, cache {cache}"
    return f"{report['machine']['processor']}, {report['threads']} threads, {report['date']}"


def panels(
    report: dict[str, Any], cache: str, modes: Sequence[str] | None, *, forced: bool
) -> list[list[Bars]]:
    """The panels, by row and column."""
    measured = report["measurements"]
    if "gpu" not in report:
        return [row for row in [_row(measured, "float32", lambda m: m["median_ms"])] if row]
    found = dict.fromkeys(m["mode"] for m in measured)

    def times(m: dict[str, Any]) -> dict[str, float]:
        medians: dict[str, float] = m["median_ms"][cache]
        return {n: ms for n, ms in medians.items() if forced or not n.startswith(FORCED)}

    rows = [
        _row([m for m in measured if m["mode"] == mode], mode, times)
        for mode in found
        if modes is None or mode in modes
    ]
    return [row for row in rows if row]


def _row(measured: list[dict[str, Any]], mode: str, times: Any) -> list[Bars]:
    found = []
    for direction, title in DIRECTIONS.items():
        here = [m for m in measured if m["direction"] == direction]
        if here:
            names = dict.fromkeys(name for m in here for name in times(m))
            columns = {name: [times(m).get(name) for m in here] for name in names}
            found.append(Bars(f"{mode}, {title}", _labels(here), columns))
    return found


def _labels(measured: list[dict[str, Any]]) -> list[str]:
    configs = [m["config"] for m in measured]
    several = len({config["offsets"] for config in configs}) > 1
    return [f"{c['name']}\n{c['offsets']}" if several else c["name"] for c in configs]


def draw(rows: list[list[Bars]], title: str) -> Any:
    """A figure of all panels."""
    groups = max(len(bars.groups) for row in rows for bars in row)
    size = (max(5.0, 0.6 * groups) * max(map(len, rows)), 3.4 * len(rows) + 1.0)
    figure, axes = plt.subplots(
        len(rows),
        max(map(len, rows)),
        figsize=size,
        squeeze=False,
        sharey="row",
        layout="constrained",
    )
    names = list(dict.fromkeys(name for row in rows for bars in row for name in bars.times))
    colors = _colors(names)
    for row, row_axes in zip(rows, axes, strict=True):
        for unused in row_axes[len(row) :]:
            unused.axis("off")
        for bars, panel_axes in zip(row, row_axes, strict=False):
            _panel(panel_axes, bars, colors)
        row_axes[0].set_ylabel("time of a call, ms")
    handles = [plt.Rectangle((0, 0), 1, 1, color=colors[name]) for name in names]
    figure.legend(
        handles, names, loc="outside lower center", ncols=min(8, len(names)), frameon=False
    )
    figure.suptitle(title, fontsize=11)
    return figure


def _colors(names: list[str]) -> dict[str, str]:
    others = iter(OTHERS * len(names))
    return {name: COLORS.get(name) or next(others) for name in names}


def _panel(axes: Any, bars: Bars, colors: dict[str, str]) -> None:
    width = 0.82 / len(bars.times)
    for i, (name, times) in enumerate(bars.times.items()):
        centres = [x + (i - (len(bars.times) - 1) / 2) * width for x in range(len(times))]
        present = [(x, ms) for x, ms in zip(centres, times, strict=True) if ms is not None]
        axes.bar([x for x, _ in present], [ms for _, ms in present], width, color=colors[name])
    times = [ms for many in bars.times.values() for ms in many if ms is not None]
    axes.set_yscale("log")
    axes.set_ylim(
        bottom=min(axes.get_ylim()[0], min(times) / 1.5)
    )  # leaves the shortest bar visible
    axes.set_xlim(-0.6, len(bars.groups) - 0.4)
    axes.set_title(bars.title, fontsize=10)
    axes.set_xticks(range(len(bars.groups)), bars.groups, fontsize=8)
    axes.grid(axis="y", which="major", linewidth=0.4, alpha=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="x", length=0)
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()
