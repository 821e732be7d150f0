"""The report of a CPU benchmark run, as JSON and as text. This module measures nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from statistics import quantiles

from cudeform.commands.machine import Machine
from cudeform_bench.configs import of_fields
from cudeform_bench.table import HEADINGS, Measurement, direction_table


@dataclass(frozen=True)
class Report:
    """The results of one run of ``bench``.

    Attributes:
        command: the command line.
        date: date of the run, in UTC.
        threads: number of threads of every contestant; None for each library's default.
        versions: versions of the libraries, by name.
        machine: processor, BLAS and environment.
        absent: for each contestant that was not measured, the reason.
        measurements: one for each direction and configuration.
    """

    command: str
    date: str
    threads: int | None
    versions: dict[str, str]
    machine: Machine
    absent: dict[str, str]
    measurements: tuple[Measurement, ...]

    def to_json(self) -> str:
        """All fields as JSON text."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Report:
        """The inverse of :meth:`to_json`. Measurements without ``shares`` are accepted too."""
        fields = json.loads(text)
        fields["machine"] = Machine.of(fields["machine"])
        fields["measurements"] = tuple(
            Measurement(**measured | {"config": of_fields(measured["config"])})
            for measured in fields["measurements"]
        )
        return cls(**fields)


def text(report: Report) -> str:
    """The report as plain text: the machine, a table for each direction, and notes."""
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
    threads = report.threads or "each library's default"
    what = f"{report.date}, float32, threads: {threads}\n{report.command}"
    return f"{versions}\n{report.machine}\n{what}"


def _noise(measured: Iterable[Measurement]) -> str:
    """The largest spread of the timings: differences of ratios below it may be noise."""
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
