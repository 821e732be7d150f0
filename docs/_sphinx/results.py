"""Tables of the page on performance, from what ``python -m cudeform bench --json`` wrote."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

from cudeform_bench.cpu.report import Report, text
from cudeform_bench.table import HEADINGS, OURS, Measurement, mean_ratio

NONE = """\
There are no results in ``benchmarks/results`` of this checkout. Measure with::

    python -m cudeform bench --json benchmarks/results/MACHINE-DATE.json
"""


def write_tables(results: Path, output: Path) -> None:
    """Write ``performance.rst`` into ``output``: tables of each file of ``results``."""
    parts = []
    for file in sorted(results.glob("*.json")):
        try:
            report = Report.from_json(file.read_text(encoding="utf-8"))
        except (KeyError, TypeError, ValueError):
            continue  # not written by the benchmark on a CPU
        parts.append(_tables(file.name, report))
    output.mkdir(exist_ok=True)
    (output / "performance.rst").write_text("\n".join(parts) or NONE, encoding="utf-8")


def _tables(name: str, report: Report) -> str:
    """A file's tables, after its heading and before its notes."""
    heading, *_, notes = text(report).split("\n\n")
    *where, command = heading.splitlines()
    parts = [f"``{name}``:", "\n".join(f"| {line}" for line in (*where, f"``{command}``"))]
    for direction, caption in HEADINGS.items():
        measured = [m for m in report.measurements if m.direction == direction]
        if measured:
            parts.append(_table(caption, measured))
    parts.append("\n".join(f"* {note}" for note in notes.splitlines()))
    return "\n\n".join(parts) + "\n"


def _table(caption: str, measured: list[Measurement]) -> str:
    names = dict.fromkeys(name for m in measured for name in m.median_ms)
    peers = [name for name in names if name != OURS]
    heads = ["configuration, shape", f"{OURS}, ms", *(f"{peer}, ms" for peer in peers)]
    rows = [[*heads, "GEMM, GFLOP/s", "workspace, MiB"]]
    for m in measured:
        shape = f"{m.config.name}, ``{m.config.shape}``"
        times = [f"{m.median_ms[OURS]:.1f}", *(_peer(m, peer) for peer in peers)]
        rows.append(
            [
                shape,
                *times,
                f"{m.gflop_per_s:.0f}" if m.gflop_per_s else "-",
                f"{m.workspace_mib:.0f}",
            ]
        )
    ratios = [mean_ratio(measured, peer) for peer in peers]
    means = ["-" if ratio is None else f"**{ratio:.2f}x**" for ratio in ratios]
    rows.append(["geometric mean of the ratios", "", *means, "", ""])
    lines = [f".. list-table:: {caption}", "   :header-rows: 1", ""]
    for row in rows:
        lines += [f"   {'* -' if index == 0 else '  -'} {cell}" for index, cell in enumerate(row)]
    return "\n".join(line.rstrip() for line in lines)


def _peer(measured: Measurement, name: str) -> str:
    ratio = measured.ratio(name)
    return "-" if ratio is None else f"{measured.median_ms[name]:.1f} ({ratio:.2f}x)"
