"""The report of a GPU benchmark run, as JSON and as text. This module measures nothing."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from cudeform_bench.configs import Config, of_fields
from cudeform_bench.gpu.forced import is_forced
from cudeform_bench.table import ABSENT, HEADINGS, Measurement, aligned, direction_table

CACHES = {"warm": "operands in the L2 cache, where they fit", "cold": "L2 cache flushed"}


@dataclass(frozen=True)
class GpuMeasurement:
    """Times and errors for one configuration in one direction and mode.

    Attributes:
        config: the configuration.
        direction: "forward", "backward" or "both".
        mode: a name in ``model.MODES``.
        samples_ms: times on the GPU's clock, by "warm" or "cold", then by contestant.
        median_ms: medians of these times.
        host_us: by contestant, the median host time until a call returns.
        errors: for contestants that compute the same results, the largest difference from float64,
            relative to the largest element.
        workspace_mib: by contestant, the peak of torch's allocator without arguments and results;
            contestants that use another allocator are left out.
        shares: each lower bound of the model as a fraction of cudeform's cold time.
    """

    config: Config
    direction: str
    mode: str
    samples_ms: dict[str, dict[str, list[float]]]
    median_ms: dict[str, dict[str, float]]
    host_us: dict[str, float]
    errors: dict[str, float]
    workspace_mib: dict[str, float]
    shares: dict[str, float]

    def row(self, cache: str) -> Measurement:
        """The row of the table for a cache state, "warm" or "cold"."""
        return Measurement(
            config=self.config,
            direction=self.direction,
            samples_ms=_unforced(self.samples_ms[cache]),
            median_ms=_unforced(self.median_ms[cache]),
            errors=self.errors,
            workspace_mib=self.workspace_mib["cudeform"],
        )


def _unforced(values: dict[str, Any]) -> dict[str, Any]:
    """Values by contestant, without forced contestants."""
    return {name: value for name, value in values.items() if not is_forced(name)}


@dataclass(frozen=True)
class GpuReport:
    """The results of one run of ``bench --device gpu``.

    Attributes:
        command: the command line.
        date: date of the run, in UTC.
        gpu: name of the GPU.
        versions: versions of the libraries, by name.
        rates: constants of the model, in bytes or operations per second.
        tolerances: largest error allowed, by mode.
        absent: for each contestant that was not measured, the reason.
        measurements: one for each configuration, mode and direction.
        failures: texts about wrong results and errors, which were not timed.
        skipped: measurements that the deadline left out.
    """

    command: str
    date: str
    gpu: str
    versions: dict[str, str]
    rates: dict[str, float]
    tolerances: dict[str, float]
    absent: dict[str, str]
    measurements: tuple[GpuMeasurement, ...]
    failures: tuple[str, ...]
    skipped: tuple[str, ...]

    def to_json(self) -> str:
        """All fields as JSON text."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> GpuReport:
        """The inverse of :meth:`to_json`."""
        fields: dict[str, Any] = json.loads(text)
        fields["measurements"] = tuple(
            GpuMeasurement(**measured | {"config": of_fields(measured["config"])})
            for measured in fields["measurements"]
        )
        for name in ("failures", "skipped"):
            fields[name] = tuple(fields[name])
        return cls(**fields)


def text(report: GpuReport) -> str:
    """The report as plain text: tables for each mode and direction, and notes."""
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    parts = [f"{versions}\n{report.gpu}\n{report.date}\n{report.command}"]
    kinds = dict.fromkeys((m.mode, m.direction) for m in report.measurements)
    for mode, direction in kinds:
        measured = [m for m in report.measurements if (m.mode, m.direction) == (mode, direction)]
        for cache, meaning in CACHES.items():
            rows = direction_table([m.row(cache) for m in measured])
            parts.append(f"{mode}, {HEADINGS[direction]}, {cache}: {meaning}\n{rows}")
        parts.append(f"{mode}, {HEADINGS[direction]}, floors and host\n{_details(measured)}")
        forced = _forced(measured)
        if forced:
            parts.append(f"{mode}, {HEADINGS[direction]}, forced: cold ms\n{forced}")
    return "\n\n".join([*parts, "\n".join(_notes(report))])


def _details(measured: list[GpuMeasurement]) -> str:
    """The table of lower bounds, as fractions of cudeform's cold time, and of host times."""
    floors = list(dict.fromkeys(floor for m in measured for floor in m.shares))
    names = list(dict.fromkeys(name for m in measured for name in _unforced(m.host_us)))
    rows = [["config", *floors, *names], ["", *("" for _ in floors), *("host us" for _ in names)]]
    for m in measured:
        shares = [f"{m.shares[floor]:.0%}" if floor in m.shares else ABSENT for floor in floors]
        times = [m.host_us.get(name) for name in names]
        host = [ABSENT if us is None else f"{us:.1f}" for us in times]
        rows.append([_label(m, measured), *shares, *host])
    return aligned(rows, left=1)


def _label(m: GpuMeasurement, among: list[GpuMeasurement]) -> str:
    """Name of a configuration, with its offsets if the table has several distributions of them."""
    several = len({other.config.offsets for other in among}) > 1
    return f"{m.config.name} {m.config.offsets}" if several else m.config.name


def _forced(measured: list[GpuMeasurement]) -> str:
    """The table of forced paths and scatters, with the engine's choice; "" if none was forced."""
    names = dict.fromkeys(n for m in measured for n in m.median_ms["cold"] if is_forced(n))
    if not names:
        return ""
    rows = [["config", "chosen", *names]]
    for m in measured:
        times = [m.median_ms["cold"].get(name) for name in ("cudeform", *names)]
        rows.append([_label(m, measured), *(ABSENT if ms is None else f"{ms:.4f}" for ms in times)])
    return aligned(rows, left=1)


def _notes(report: GpuReport) -> list[str]:
    rates = ", ".join(f"{name} {rate:.3g}" for name, rate in report.rates.items())
    notes = [f"Floors are computed from these rates, bytes or operations per second: {rates}."]
    for m in report.measurements:
        for name, error in m.errors.items():
            if not error <= report.tolerances[m.mode]:  # also true if the error is NaN
                where = f"{m.config.name} {m.direction} {m.mode}"
                notes.append(f"{name} differs by {error:.2g} of the largest element at {where}.")
    notes += [f"Without {name}: {why}." for name, why in report.absent.items()]
    notes += [f"FAILED: {failure}." for failure in report.failures]
    if report.skipped:
        notes.append(f"Skipped after the deadline: {', '.join(report.skipped)}.")
    return notes
