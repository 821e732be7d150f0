"""What ``bench`` measured, as JSON and as a table. Nothing is timed here."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from statistics import geometric_mean, quantiles

from cudeform.commands.bench_configs import Config
from cudeform.commands.info import Machine

OURS = "cudeform"

# Matrix products of a direction: the backward has one for the columns and one for the weight.
HEADINGS = {"forward": "forward", "backward": "backward", "both": "forward and backward"}
PRODUCTS = {"forward": 1, "backward": 2, "both": 3}

ABSENT = "-"


@dataclass(frozen=True)
class Measurement:
    """One configuration in one direction.

    Attributes:
        config: what was computed.
        direction: "forward", "backward" or "both".
        samples_ms: times by contestant, in the order they were taken.
        median_ms: their medians.
        errors: largest difference to the float64 result by contestant, in units of that result's
            largest element.
        workspace_mib: most memory that cudeform held at a time beside its arguments and results.
    """

    config: Config
    direction: str
    samples_ms: dict[str, list[float]]
    median_ms: dict[str, float]
    errors: dict[str, float]
    workspace_mib: float

    def ratio(self, peer: str) -> float | None:
        """How many times longer a peer takes than cudeform; None where it took no part."""
        if peer not in self.median_ms:
            return None
        return self.median_ms[peer] / self.median_ms[OURS]

    @property
    def gflop_per_s(self) -> float:
        """Rate at which cudeform gets through the matrix products."""
        flop = PRODUCTS[self.direction] * self.config.gemm_flop
        return flop / self.median_ms[OURS] / 1e6


@dataclass(frozen=True)
class Report:
    """A run of ``bench``.

    Attributes:
        command: what was typed.
        date: when, UTC.
        threads: given to every contestant.
        versions: of the libraries, by name.
        machine: where.
        absent: contestants that took no part, and why.
        measurements: what came out.
    """

    command: str
    date: str
    threads: int
    versions: dict[str, str]
    machine: Machine
    absent: dict[str, str]
    measurements: tuple[Measurement, ...]

    def to_json(self) -> str:
        """Everything, as text."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Report:
        """The inverse of :meth:`to_json`."""
        fields = json.loads(text)
        fields["machine"] = Machine.of(fields["machine"])
        fields["measurements"] = tuple(
            Measurement(**measured | {"config": Config(**measured["config"])})
            for measured in fields["measurements"]
        )
        return cls(**fields)


def table(report: Report) -> str:
    """The report for a reader: where it was taken, a table for each direction, what to note."""
    parts = [_heading(report)]
    for direction, heading in HEADINGS.items():
        measured = [m for m in report.measurements if m.direction == direction]
        if measured:
            parts.append(f"{heading}\n{direction_table(measured)}")
    notes = [_noise(report.measurements), *report.machine.remarks]
    notes += [f"Without {name}: {why}." for name, why in report.absent.items()]
    return "\n\n".join([*parts, "\n".join(notes)])


def _heading(report: Report) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    what = f"{report.date}, float32, threads: {report.threads}\n{report.command}"
    return f"{versions}\n{report.machine}\n{what}"


def direction_table(measured: list[Measurement]) -> str:
    """The table of one direction: a row for each configuration, a column for each contestant."""
    names = list(dict.fromkeys(name for m in measured for name in m.median_ms))
    peers = [name for name in names if name != OURS]
    rows = [
        ["config", "shape", "offsets", OURS],
        ["", "", "", "ms"],
        *([m.config.name, m.config.shape, m.config.offsets, _ms(m, OURS)] for m in measured),
        ["geometric mean", "", "", ""],
    ]
    for peer in peers:
        ratios = [_number(m.ratio(peer), 2) for m in measured]
        _extend(rows, [peer, "ms", *(_ms(m, peer) for m in measured), ""])
        _extend(rows, ["ratio", "", *ratios, _number(mean_ratio(measured, peer), 2)])
    _extend(rows, ["GEMM", "GFLOP/s", *(_number(m.gflop_per_s, 1) for m in measured), ""])
    _extend(rows, ["workspace", "MiB", *(_number(m.workspace_mib, 1) for m in measured), ""])
    return aligned(rows if peers else rows[:-1], left=3)


def _extend(rows: list[list[str]], column: list[str]) -> None:
    for row, cell in zip(rows, column, strict=True):
        row.append(cell)


def _ms(measured: Measurement, name: str) -> str:
    value = measured.median_ms.get(name)
    return _number(value, 2 if value is None or value >= 1 else 4)


def mean_ratio(measured: Iterable[Measurement], peer: str) -> float | None:
    """Geometric mean of a peer's ratios, over the measurements that it took part in."""
    ratios = [ratio for m in measured if (ratio := m.ratio(peer)) is not None]
    return geometric_mean(ratios) if ratios else None


def _noise(measured: Iterable[Measurement]) -> str:
    """The worst spread of the samples, so that nobody reads more into a ratio than there is."""
    spreads = [
        (_spread(samples), f"{name}, {m.config.name} {m.direction}")
        for m in measured
        for name, samples in m.samples_ms.items()
    ]
    worst, where = max(spreads)
    return (
        f"Noise: the middle half of the times of {where}, spans {worst:.0%} of their median; "
        "all others span less."
    )


def _spread(samples: list[float]) -> float:
    """Interquartile range, relative to the median."""
    low, middle, high = quantiles(samples, n=4, method="inclusive")
    return (high - low) / middle


def _number(value: float | None, digits: int) -> str:
    return ABSENT if value is None else f"{value:.{digits}f}"


def aligned(rows: list[list[str]], left: int) -> str:
    """Columns as wide as their widest cell; the first ``left`` start, the others end together."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
