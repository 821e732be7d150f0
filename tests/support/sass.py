"""Counts instructions in the machine code of the kernels that sample; needs no GPU.

``python tests/support/sass.py`` compiles the kernels by NVRTC, disassembles them by nvdisasm and
prints the counts; with ``--write`` it records them in benchmarks/instructions.json, with which
test_instructions.py compares. To count another kernel, add it to ``KERNELS``.

Counts are of all instructions in a loop, those on rarely taken branches included:

* ``vector``: the loop that loads vectors of channels. A thread executes it once a vector; what it
  does once a sample is in it too. It is the largest loop that loads vectors without a barrier, or,
  in a kernel without barriers, the smallest that loads vectors.
* ``record``: the rest of the smallest loop around it. A thread executes it once for each sample
  record that it makes, or item that it takes.

In the fused kernel, ``vector`` is a stage, in which a thread samples ``THREAD_VECS`` vectors and
its warp multiplies; ``record`` is the loop in it that records samples.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # that of support

from support import nvrtc

from cudeform.gpu.algorithms.fused_tiling import STAGE_VECS, tile_shapes
from cudeform.gpu.device_api.kernel_source import Variant, kernel, widest
from cudeform.gpu.variants import atomic_width
from cudeform.options import available_threads

RECORD = Path(__file__).resolve().parents[2] / "benchmarks" / "instructions.json"
ARCH = 90
DTYPES = ("float16", "bfloat16", "float32")


# Kernels with any number of axes, and the channels of a group that are compiled in.
KERNELS = {
    "deform_im2col": 0,
    "deform_backward": 0,
    "gather_grad_input": 0,
    "deform_im2col_jvp": 0,
    "deform_double_backward": 0,
    "deform_direct": 1,
    "deform_direct_backward": 1,
    "deform_direct_grad_weight": 1,
}
SUMS = ("deform_sum",)
FUSED = "deform_fused"
SUFFIXES = {2: "", 1: ", 1 axis", 3: ", 3 axes"}

# What is counted, by its name in the record: a kernel and its number of axes.
COUNTED = {
    f"{name}{SUFFIXES[axes]}": (name, axes)
    for axes in SUFFIXES
    for name in (KERNELS if axes != 2 else [*KERNELS, *SUMS, FUSED])
}


def _variant(name: str, axes: int, dtype: str) -> Variant:
    """The most common variant: whole vectors, 32-bit indices."""
    wide = widest(dtype)
    if name == FUSED:  # for 128 output channels; float32 in TF32
        [tile] = tile_shapes(128, STAGE_VECS * wide, 1)
        return Variant(dtype, 32, wide, tile=tile)
    group, width = KERNELS.get(name, 0), atomic_width(dtype, wide, ARCH)
    coords = "float32" if name in SUMS else None
    return Variant(dtype, 32, wide, group, group, atomic_width=width, axes=axes, coord_dtype=coords)


@dataclass(frozen=True)
class Counts:
    """Instructions of a kernel's loops."""

    vector: int
    record: int


@dataclass(frozen=True)
class Loop:
    """A loop: instructions ``first`` to ``last``, the branch back."""

    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first + 1

    def contains(self, other: Loop) -> bool:
        """Whether another loop is inside."""
        return self != other and self.first <= other.first and other.last <= self.last


def disassembler() -> str | None:
    """nvdisasm of the ``nvidia-cuda-nvdisasm`` wheel or of a toolkit, None if there is none."""
    spec = find_spec("nvidia")
    folders = spec.submodule_search_locations if spec else None
    found = [str(path) for folder in folders or () for path in Path(folder).glob("*/bin/nvdisasm")]
    return max(found, default=shutil.which("nvdisasm"))


def disassembled(code: bytes) -> str:
    """Machine code as assembly, with labels."""
    program = disassembler()
    assert program is not None
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        command = [program, "--print-code", file.name]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def parsed(text: str) -> tuple[list[str], dict[str, int]]:
    """Instructions up to the end of the kernel, and the positions of labels.

    After the end there is only code for warps whose threads have diverged.
    """
    instructions: list[str] = []
    labels: dict[str, int] = {}
    for line in text.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = len(instructions)
        elif found := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;", line):
            instructions.append(found[1])
            if found[1] == "EXIT":
                break
    return instructions, labels


def loops(instructions: list[str], labels: dict[str, int]) -> Iterator[Loop]:
    """Every loop: from a label to a branch back to it."""
    for place, instruction in enumerate(instructions):
        target = re.search(r"\bBRA\b.*?(\.L_x_\d+)", instruction)
        if target and labels.get(target[1], place + 1) <= place:
            yield Loop(labels[target[1]], place)


def counted(text: str) -> Counts:
    """The counts of a kernel that is given as assembly."""
    instructions, labels = parsed(text)

    def has(loop: Loop, pattern: str) -> bool:
        inside = instructions[loop.first : loop.last + 1]
        return any(re.search(pattern, instruction) for instruction in inside)

    loading = [loop for loop in loops(instructions, labels) if has(loop, r"\bLDG\.E\.128\b")]
    if not loading:
        raise ValueError("no loop loads vectors")
    free = [loop for loop in loading if not has(loop, r"\bBAR\.SYNC\b")]
    if not free:
        return staged(min(loading, key=len), list(loops(instructions, labels)))
    mixed = len(free) < len(loading)
    vector = max(free, key=len) if mixed else min(loading, key=len)
    around = min((loop for loop in loading if loop.contains(vector)), key=len, default=vector)
    return Counts(len(vector), len(around) - len(vector))


def staged(stage: Loop, among: list[Loop]) -> Counts:
    """The counts if every loop has a barrier: of a stage, and of the loop in it that records."""
    inside = [len(loop) for loop in among if stage.contains(loop)]
    return Counts(len(stage) - sum(inside), max(inside, default=0))


def count(what: str, dtype: str) -> Counts:
    """The counts of a key of ``COUNTED`` for a dtype."""
    name, axes = COUNTED[what]
    source = kernel(name, _variant(name, axes, dtype)).source
    return counted(disassembled(nvrtc.machine_code(source, ARCH)))


def count_all() -> dict[str, dict[str, Counts]]:
    """By kernel and dtype."""
    names, dtypes = zip(*[(name, dtype) for name in COUNTED for dtype in DTYPES], strict=True)
    with ProcessPoolExecutor(available_threads(), mp_context=get_context("spawn")) as pool:
        results = list(pool.map(count, names, dtypes))
    table: dict[str, dict[str, Counts]] = {}
    for name, dtype, result in zip(names, dtypes, results, strict=True):
        table.setdefault(name, {})[dtype] = result
    return table


def record_of(table: dict[str, dict[str, Counts]]) -> dict[str, Any]:
    """The record."""
    rows = {name: {d: vars(c) for d, c in row.items()} for name, row in table.items()}
    return {"nvrtc": nvrtc.version(), "arch": f"sm_{ARCH}", "instructions": rows}


def rows(record: dict[str, Any]) -> Iterator[str]:
    """The record as the rows of a table in Markdown."""
    for name, row in record["instructions"].items():
        cells = [f"{row[dtype]['vector']} + {row[dtype]['record']}" for dtype in DTYPES]
        yield f"| {' | '.join([name, *cells])} |"


def available() -> bool:
    """Whether NVRTC and nvdisasm are installed."""
    return nvrtc.library_path() is not None and disassembler() is not None


def main() -> int:
    """Run the command; its exit status."""
    parser = argparse.ArgumentParser(description="Count instructions, without a GPU.")
    parser.add_argument("--write", action="store_true", help=f"record them in {RECORD.name}")
    options = parser.parse_args()
    if not available():
        print("pip install nvidia-cuda-nvrtc nvidia-cuda-nvdisasm", file=sys.stderr)
        return 1
    table = count_all()
    if options.write:
        text = json.dumps(record_of(table), indent=1)
        text = re.sub(r"\{[^{}]*\}", lambda row: " ".join(row[0].split()), text)
        RECORD.write_text(text + "\n", encoding="utf-8")
    for name, row in table.items():
        for dtype, counts in row.items():
            print(f"{name:33} {dtype:9} vector {counts.vector:4}  record {counts.record:4}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
