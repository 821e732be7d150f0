"""A run on a CPU, as JSON and as text. Nothing is timed here."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from statistics import quantiles

from cudeform.commands.machine import Machine
from cudeform_bench.configs import Config
from cudeform_bench.table import HEADINGS, Measurement, direction_table


@dataclass(frozen=True)
class Report:
    """A run of ``bench``.

    Attributes:
        command: the command line.
        date: of the run, UTC.
        threads: of every contestant; None where each library had its own default.
        versions: of the libraries, by name.
        machine: processor, BLAS and environment.
        absent: contestants that were not measured, and why.
        measurements: by direction and configuration.
    """

    command: str
    date: str
    threads: int | None
    versions: dict[str, str]
    machine: Machine
    absent: dict[str, str]
    measurements: tuple[Measurement, ...]

    def to_json(self) -> str:
        """All fields, as text."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Report:
        """The inverse of :meth:`to_json`; files of older versions are read, too."""
        fields = json.loads(text)
        fields["machine"] = Machine.of(fields["machine"])
        fields["measurements"] = tuple(
            Measurement(**measured | {"config": Config(**measured["config"])})
            for measured in fields["measurements"]
        )
        return cls(**fields)


def text(report: Report) -> str:
    """The report for a reader: the machine, a table for each direction, notes."""
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
    """The worst spread of the samples, against which differences of ratios are to be judged."""
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
