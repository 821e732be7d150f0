"""Instructions of the kernels that sample, counted in machine code; no GPU is needed.

``python tests/support/sass.py`` compiles them by NVRTC, disassembles them by nvdisasm and shows
what was counted; with ``--write`` it records that in benchmarks/instructions.json, which
test_instructions.py compares with. Another kernel is counted as soon as ``VARIANTS`` names it.

Counted is what the text of a loop holds, branches that are seldom taken included:

* ``vector``: the loop that loads vectors of channels, the largest of them without a barrier. A
  thread goes round once for each vector, and all that it does for a sample is in there, too. In a
  kernel without barriers, the smallest such loop.
* ``plan``: what the smallest loop around it has besides: once for each sample, or item, of a
  thread.

In the fused kernel ``vector`` is a stage, in which a thread samples ``SLOTS`` vectors and its warp
multiplies; ``plan`` is the loop inside of it that plans samples.
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


def _variant(dtype: str, group: int = 0) -> Variant:
    """The most common: whole vectors, 32-bit indices; ``group`` channels in a direct kernel's."""
    wide = widest(dtype)
    return Variant(dtype, 32, wide, group, group, atomic_width=atomic_width(dtype, wide, ARCH))


def _fused(dtype: str) -> Variant:
    """For 128 output channels; float32 as TF32."""
    [tile] = tile_shapes(128, STAGE_VECS * widest(dtype), 1)
    return Variant(dtype, 32, widest(dtype), tile=tile)


# Kernels and what is compiled in, for a dtype.
VARIANTS = {
    "deform_im2col": _variant,
    "deform_backward": _variant,
    "gather_grad_input": _variant,
    "deform_im2col_jvp": _variant,
    "deform_double_backward": _variant,
    "deform_direct": lambda dtype: _variant(dtype, 1),
    "deform_direct_backward": lambda dtype: _variant(dtype, 1),
    "deform_direct_grad_weight": lambda dtype: _variant(dtype, 1),
    "deform_fused": _fused,
}


@dataclass(frozen=True)
class Counts:
    """Instructions of a kernel's loops."""

    vector: int
    plan: int


@dataclass(frozen=True)
class Loop:
    """A loop's instructions, by place: from ``first`` to the branch back at ``last``."""

    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first + 1

    def holds(self, other: Loop) -> bool:
        """Whether the other is another one inside."""
        return self != other and self.first <= other.first and other.last <= self.last


def disassembler() -> str | None:
    """nvdisasm of the ``nvidia-cuda-nvdisasm`` wheel or of a toolkit, None if there is none."""
    spec = find_spec("nvidia")
    folders = spec.submodule_search_locations if spec else None
    found = [str(path) for folder in folders or () for path in Path(folder).glob("*/bin/nvdisasm")]
    return max(found, default=shutil.which("nvdisasm"))


def disassembled(code: bytes) -> str:
    """Machine code in words, with labels."""
    program = disassembler()
    assert program is not None
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        command = [program, "--print-code", file.name]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def parsed(text: str) -> tuple[list[str], dict[str, int]]:
    """Instructions up to the end of the kernel, and where labels are. Behind the end, there is only
    what warps do whose threads have gone apart."""
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
    """Every loop: what lies between a label and a branch back to it."""
    for place, instruction in enumerate(instructions):
        target = re.search(r"\bBRA\b.*?(\.L_x_\d+)", instruction)
        if target and labels.get(target[1], place + 1) <= place:
            yield Loop(labels[target[1]], place)


def counted(text: str) -> Counts:
    """The counts of a kernel in words."""
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
    around = min((loop for loop in loading if loop.holds(vector)), key=len, default=vector)
    return Counts(len(vector), len(around) - len(vector))


def staged(stage: Loop, among: list[Loop]) -> Counts:
    """The counts where every loop has a barrier: of a stage, and of the loop in it that plans."""
    inside = [len(loop) for loop in among if stage.holds(loop)]
    return Counts(len(stage) - sum(inside), max(inside, default=0))


def count(name: str, dtype: str) -> Counts:
    """The counts of a kernel for a dtype."""
    source = kernel(name, VARIANTS[name](dtype)).source
    return counted(disassembled(nvrtc.machine_code(source, ARCH)))


def count_all() -> dict[str, dict[str, Counts]]:
    """By kernel and dtype."""
    names, dtypes = zip(*[(name, dtype) for name in VARIANTS for dtype in DTYPES], strict=True)
    with ProcessPoolExecutor(available_threads(), mp_context=get_context("spawn")) as pool:
        results = list(pool.map(count, names, dtypes))
    table: dict[str, dict[str, Counts]] = {}
    for name, dtype, result in zip(names, dtypes, results, strict=True):
        table.setdefault(name, {})[dtype] = result
    return table


def record_of(table: dict[str, dict[str, Counts]]) -> dict[str, Any]:
    """What is recorded."""
    rows = {name: {d: vars(c) for d, c in row.items()} for name, row in table.items()}
    return {"nvrtc": nvrtc.version(), "arch": f"sm_{ARCH}", "instructions": rows}


def rows(record: dict[str, Any]) -> Iterator[str]:
    """The record as the rows of a table in Markdown."""
    for name, row in record["instructions"].items():
        cells = [f"{row[dtype]['vector']} + {row[dtype]['plan']}" for dtype in DTYPES]
        yield f"| {' | '.join([name, *cells])} |"


def available() -> bool:
    """Whether there is all that it takes."""
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
            print(f"{name:24} {dtype:9} vector {counts.vector:4}  plan {counts.plan:4}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
