"""A measurement of one configuration, and tables of measurements. Nothing is timed here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import geometric_mean

from cudeform_bench.configs import Config

OURS = "cudeform"

HEADINGS = {"forward": "forward", "backward": "backward", "both": "forward and backward"}

# Matrix products of a direction: the backward has one for the columns and one for the weight.
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
        errors: largest difference from the float64 result by contestant, in units of that result's
            largest element.
        workspace_mib: peak of the memory that cudeform allocates, without arguments and results.
        shares: parts of cudeform's time by name, as its profile gives them; empty without one.
    """

    config: Config
    direction: str
    samples_ms: dict[str, list[float]]
    median_ms: dict[str, float]
    errors: dict[str, float]
    workspace_mib: float
    shares: dict[str, float] = field(default_factory=dict)

    def ratio(self, peer: str) -> float | None:
        """A peer's time divided by cudeform's; None where the peer was not measured."""
        if peer not in self.median_ms:
            return None
        return self.median_ms[peer] / self.median_ms[OURS]

    @property
    def gflop_per_s(self) -> float:
        """Operations of the matrix products divided by cudeform's whole time."""
        flop = PRODUCTS[self.direction] * self.config.gemm_flop
        return flop / self.median_ms[OURS] / 1e6


def mean_ratio(measured: Iterable[Measurement], peer: str) -> float | None:
    """Geometric mean of a peer's ratios, over the measurements that have it."""
    ratios = [ratio for m in measured if (ratio := m.ratio(peer)) is not None]
    return geometric_mean(ratios) if ratios else None


def direction_table(measured: list[Measurement]) -> str:
    """The table of one direction: a row for each configuration, a column for each contestant."""
    names = list(dict.fromkeys(name for m in measured for name in m.median_ms))
    peers = [name for name in names if name != OURS]
    parts = list(dict.fromkeys(part for m in measured for part in m.shares))
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
    for part in parts:
        _extend(rows, [part, "share", *(_share(m, part) for m in measured), ""])
    _extend(rows, ["GEMM", "GFLOP/s", *(_number(m.gflop_per_s, 1) for m in measured), ""])
    _extend(rows, ["workspace", "MiB", *(_number(m.workspace_mib, 1) for m in measured), ""])
    return aligned(rows if peers else rows[:-1], left=3)


def aligned(rows: list[list[str]], left: int) -> str:
    """Columns as wide as their widest cell; the first ``left`` of them are left-aligned."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index < left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _extend(rows: list[list[str]], column: list[str]) -> None:
    for row, cell in zip(rows, column, strict=True):
        row.append(cell)


def _ms(measured: Measurement, name: str) -> str:
    value = measured.median_ms.get(name)
    return _number(value, 2 if value is None or value >= 1 else 4)


def _share(measured: Measurement, part: str) -> str:
    share = measured.shares.get(part)
    return ABSENT if share is None else f"{share:.0%}"


def _number(value: float | None, digits: int) -> str:
    return ABSENT if value is None else f"{value:.{digits}f}"
