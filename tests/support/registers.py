"""Compiles kernels by NVRTC and counts their registers; needs no GPU.

``python tests/support/registers.py`` compiles all variants that can be expected to differ and
prints the counts; with ``--write`` it records them in benchmarks/registers.json, with which
test_kernels.py compares. ``--all`` compiles every variant, which takes many minutes.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # that of support

from support.kernel_jobs import Job, jobs
from support.nvrtc import archs, compiled, library_path, version

from cudeform.gpu.device_api.kernel_source import FILES, kernel
from cudeform.options import available_threads

RECORD = Path(__file__).resolve().parents[2] / "benchmarks" / "registers.json"


@dataclass(frozen=True)
class Compiled:
    """What NVRTC and its assembler report of a kernel."""

    job: Job
    registers: int
    stack: int
    spills: int
    complaints: str  # the lines of the log that are not plain information

    def __str__(self) -> str:
        return f"{self.job.name}, {self.job.key}, sm_{self.job.arch}"


INFORMATION = re.compile(r"ptxas (info|  +\.)|\s*$|.*sm_70.*deprecated|.*architectures prior to")


def run(job: Job) -> Compiled:
    """Compile a kernel and read the log."""
    return judged(job, *compiled(kernel(job.name, job.variant).source, job.arch))


def judged(job: Job, succeeded: bool, log: str) -> Compiled:
    """Read a log."""
    lines = [line for line in log.splitlines() if not INFORMATION.match(line)]
    if not succeeded:
        return Compiled(job, 0, 0, 0, log or "failed without a word")

    def total(pattern: str) -> int:
        return sum(map(int, re.findall(pattern, log)))

    registers = total(r"Used (\d+) registers")
    if not registers:
        lines.append(f"the log does not tell the registers: {log}")
    return Compiled(
        job=job,
        registers=registers,
        stack=total(r"(\d+) bytes stack frame"),
        spills=total(r"(\d+) bytes spill (?:stores|loads)"),
        complaints="\n".join(lines),
    )


def run_all(wanted: Sequence[Job]) -> list[Compiled]:
    """Compile many, in a process for each core: NVRTC compiles one text at a time in a process."""
    # Long compilations first, so that no core ends with one of them alone.
    ordered = sorted(wanted, key=lambda job: len(FILES[job.name]), reverse=True)
    with ProcessPoolExecutor(available_threads(), mp_context=get_context("spawn")) as pool:
        return list(pool.map(run, ordered, chunksize=4))


def table(results: Sequence[Compiled]) -> dict[str, Any]:
    """The record: for each kernel and variant, registers in the order of the archs."""
    among = archs()
    registers: dict[str, dict[str, list[int | None]]] = {}
    for result in sorted(results, key=lambda r: (list(FILES).index(r.job.name), r.job.key)):
        row = registers.setdefault(result.job.name, {}).setdefault(
            result.job.key, [None] * len(among)
        )
        row[among.index(result.job.arch)] = result.registers
    return {"nvrtc": version(), "archs": [f"sm_{arch}" for arch in among], "registers": registers}


def written(record: dict[str, Any]) -> str:
    """The record as text, one variant a line."""
    text = json.dumps(record, indent=1)
    return re.sub(r"\[[^\]]*\]", lambda row: " ".join(row[0].split()), text) + "\n"


def main() -> int:
    """Run the command; its exit status."""
    parser = argparse.ArgumentParser(description="Compile every kernel by NVRTC, without a GPU.")
    parser.add_argument("--write", action="store_true", help=f"record registers in {RECORD.name}")
    parser.add_argument("--all", action="store_true", help="all variants for all architectures")
    options = parser.parse_args()
    if library_path() is None:
        print("NVRTC is missing: pip install nvidia-cuda-nvrtc", file=sys.stderr)
        return 1
    results = run_all([job for job in jobs(archs()) if options.all or job.typical])
    bad = [r for r in results if r.complaints or r.stack or r.spills]
    for result in bad:
        print(f"{result}: {result.stack} bytes of stack, {result.spills} of spills")
        print(result.complaints)
    record = table(results)
    if options.write:
        RECORD.write_text(written(record), encoding="utf-8")
    for name, rows in record["registers"].items():
        counts = [count for row in rows.values() for count in row if count is not None]
        print(f"{name:24} {min(counts):3} to {max(counts):3} registers, {len(counts)} compiled")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
