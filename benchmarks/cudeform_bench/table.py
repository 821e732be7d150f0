"""The measurement of one configuration, and tables of measurements."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import geometric_mean

from cudeform_bench.configs import Config

OURS = "cudeform"

HEADINGS = {"forward": "forward", "backward": "backward", "both": "forward and backward"}

ABSENT = "-"


@dataclass(frozen=True)
class Measurement:
    """Times and errors for one configuration in one direction.

    Attributes:
        config: the configuration.
        direction: "forward", "backward" or "both".
        samples_ms: times of each contestant, in the order of measurement.
        median_ms: median time of each contestant.
        errors: for each contestant, the largest difference from the float64 result, relative to the
            largest element of that result.
        workspace_mib: peak of the memory that cudeform allocates, without arguments and results.
        shares: fraction of cudeform's time for each part of its profile; empty without a profile.
    """

    config: Config
    direction: str
    samples_ms: dict[str, list[float]]
    median_ms: dict[str, float]
    errors: dict[str, float]
    workspace_mib: float
    shares: dict[str, float] = field(default_factory=dict)

    def ratio(self, peer: str) -> float | None:
        """A peer's time divided by cudeform's; None if the peer was not measured."""
        if peer not in self.median_ms:
            return None
        return self.median_ms[peer] / self.median_ms[OURS]

    @property
    def gflop_per_s(self) -> float | None:
        """GFLOP of the matrix products by cudeform's seconds; None if there are no products."""
        flop = self.config.product_flop(self.direction)
        return flop / self.median_ms[OURS] / 1e6 if flop else None


def mean_ratio(measured: Iterable[Measurement], peer: str) -> float | None:
    """Geometric mean of a peer's ratios, over the measurements that include the peer."""
    ratios = [ratio for m in measured if (ratio := m.ratio(peer)) is not None]
    return geometric_mean(ratios) if ratios else None


def direction_table(measured: list[Measurement]) -> str:
    """The table of one direction, with a row per configuration and a column per contestant."""
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
    rates = [m.gflop_per_s for m in measured]
    if any(rates):
        _extend(rows, ["GEMM", "GFLOP/s", *(_number(rate, 1) for rate in rates), ""])
    _extend(rows, ["workspace", "MiB", *(_number(m.workspace_mib, 1) for m in measured), ""])
    return aligned(rows if peers else rows[:-1], left=3)


def aligned(rows: list[list[str]], left: int) -> str:
    """Format a table with aligned columns; the first ``left`` columns are left-aligned."""
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
