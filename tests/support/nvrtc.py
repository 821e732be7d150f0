"""Compiles kernels by NVRTC and counts their registers; needs no GPU.

``python tests/support/nvrtc.py`` compiles all variants that can be expected to differ and prints
the counts; with ``--write`` it records them in benchmarks/registers.json, with which
test_kernels.py compares. ``--all`` compiles every variant, which takes many minutes.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import re
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from cudeform.gpu.algorithms import fused
from cudeform.gpu.algorithms.direct import MAX_PRODUCT
from cudeform.gpu.algorithms.fused_tiling import MAX_N, STAGE_VECS, tile_shapes
from cudeform.gpu.device_api.kernel_source import (
    FILES,
    ITEMSIZE,
    SCALARS,
    GemmTile,
    Variant,
    adds_atomically,
    is_sum,
    kernel,
    read,
    widest,
)
from cudeform.gpu.device_api.params import PARAMS
from cudeform.gpu.device_api.structs import StructType, depends_on_axes
from cudeform.gpu.variants import atomic_width
from cudeform.options import available_threads

RECORD = Path(__file__).resolve().parents[2] / "benchmarks" / "registers.json"

# Architectures for which many variants are compiled. Only NVRTC 12 and older support sm_70.
ARCHS = (70, 75, 80, 86, 89, 90, 100, 120)
# Relatives of these, for which one variant of each kernel is compiled.
RELATED_ARCHS = (87, 103, 121)

# Kernels of the fused forward.
FUSED = ("pack_weight_fused", "deform_fused", "reduce_split_k")

# The options that CuPy and gpu/cuda/device.py add, and an option for the assembler's report.
OPTIONS = ("-ftz=true", "--device-as-default-execution-space", "-std=c++17")
VERBOSE = "--ptxas-options=-v"


@dataclass(frozen=True)
class Job:
    """A kernel to compile."""

    name: str
    variant: Variant
    arch: int

    @property
    def key(self) -> str:
        """The compile-time parameters in words: the key of the record."""
        v = self.variant
        words = [v.dtype, f"{v.index_bits} bits", f"{v.vector} at a time"]
        words += [f"coordinates {v.coord_dtype}"] if v.coord_dtype not in (None, v.dtype) else []
        words += [f"{v.axes} {'axis' if v.axes == 1 else 'axes'}"] if v.axes != 2 else []
        words += [f"groups {v.group_in} to {v.group_out}"] if v.group_in else []
        words += [f"{v.atomic_width} added at a time"] if v.atomic_width > 1 else []
        if v.tile:
            words.append(f"tiles of {v.tile.m} by {v.tile.n}")
            words += [f"{v.tile.products} products"] if v.tile.products > 1 else []
            odd = v.tile.channel_block != STAGE_VECS * widest(v.dtype)
            words += [f"channel blocks of {v.tile.channel_block}"] if odd else []
        return ", ".join(words)

    @property
    def typical(self) -> bool:
        """Whether the tests compile this job: for sm_90 all with two axes, a selection of others.

        The selection leaves out small tiles, 64-bit indices, small groups, and atomic additions of
        single numbers if vectors can be added: these variants differ little from the others.
        """
        v = self.variant
        if v.axes != 2:
            return self._typical_of_other_axes
        if self.arch == 90:
            return True
        if v.tile:  # the largest take the most registers
            return self.name == "deform_fused" and v.dtype != "bfloat16" and v.tile.n >= 128
        if v.group_in * v.group_out > 1 or v.atomic_width < _most_atomic_width(
            self.name, v, self.arch
        ):
            return False
        return v.index_bits == 32 or (self.arch in (70, 75) and not v.group_in)

    @property
    def _typical_of_other_axes(self) -> bool:
        """Three axes take the most registers; with one axis, kernels are smaller than with two."""
        v = self.variant
        is_narrow, in_groups = v.index_bits == 32, v.group_in * v.group_out > 1
        if self.arch == 90 and v.axes == 3:
            return not in_groups or (is_narrow and v.group_out == MAX_PRODUCT)
        among = (90,) if v.axes == 1 else (75, 100)
        single = _mentions(self.name, "VECTOR") and v.vector == 1
        return self.arch in among and is_narrow and not in_groups and not single


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


def library_path() -> Path | None:
    """NVRTC of the newest installed ``nvidia-cuda-nvrtc`` wheel, None if none is installed."""
    spec = find_spec("nvidia")
    folders = spec.submodule_search_locations if spec else None
    found = [path for folder in folders or () for path in Path(folder).glob("*/lib/libnvrtc.so.*")]
    return max(found, key=lambda path: int(path.suffix[1:]), default=None)


@cache
def _library() -> ctypes.CDLL:
    path = library_path()
    assert path is not None
    # NVRTC opens this library by its name alone, and some releases do not search their own folder.
    for builtins in path.parent.glob("libnvrtc-builtins.so.*"):
        ctypes.CDLL(str(builtins))
    return ctypes.CDLL(str(path))


def version() -> str:
    """The version of NVRTC, such as 13.0."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check(_library().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
    return f"{major.value}.{minor.value}"


def archs(among: Sequence[int] = ARCHS) -> list[int]:
    """The given architectures for which this NVRTC compiles."""
    count = ctypes.c_int()
    _check(_library().nvrtcGetNumSupportedArchs(ctypes.byref(count)))
    supported = (ctypes.c_int * count.value)()
    _check(_library().nvrtcGetSupportedArchs(supported))
    return [arch for arch in among if arch in set(supported)]


def _check(status: int) -> None:
    if status:
        _library().nvrtcGetErrorString.restype = ctypes.c_char_p
        raise RuntimeError(_library().nvrtcGetErrorString(status).decode())


def compiled(source: str, arch: int) -> tuple[bool, str]:
    """Compile a text to machine code; return whether that succeeded, and the log."""
    succeeded, log, _ = _compiled(source, arch)
    return succeeded, log


def machine_code(source: str, arch: int) -> bytes:
    """The cubin of a text."""
    succeeded, log, code = _compiled(source, arch)
    if not succeeded:
        raise RuntimeError(log)
    return code


def _compiled(source: str, arch: int) -> tuple[bool, str, bytes]:
    lib, program = _library(), ctypes.c_void_p()
    _check(lib.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"", 0, None, None))
    try:
        options = [option.encode() for option in (f"-arch=sm_{arch}", *OPTIONS, VERBOSE)]
        array = (ctypes.c_char_p * len(options))(*options)
        status = lib.nvrtcCompileProgram(program, len(options), array)
        size = ctypes.c_size_t()
        _check(lib.nvrtcGetProgramLogSize(program, ctypes.byref(size)))
        log = ctypes.create_string_buffer(size.value)
        _check(lib.nvrtcGetProgramLog(program, log))
        code = ctypes.create_string_buffer(0)
        if status == 0:
            _check(lib.nvrtcGetCUBINSize(program, ctypes.byref(size)))
            code = ctypes.create_string_buffer(size.value)
            _check(lib.nvrtcGetCUBIN(program, code))
        return status == 0, log.value.decode(), code.raw
    finally:
        lib.nvrtcDestroyProgram(ctypes.byref(program))


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


def jobs(among: Sequence[int]) -> Iterator[Job]:
    """Every kernel in every variant that the engine may use; first those of two axes."""
    for axes in (2, 1, 3):
        yield from _jobs_of_axes(axes, among)


def _jobs_of_axes(axes: int, among: Sequence[int]) -> Iterator[Job]:
    for name, (dtype, scalar) in product(FILES, SCALARS.items()):
        del scalar
        struct: StructType = PARAMS[name]
        if axes != 2 and (name in FUSED or is_sum(name) or not depends_on_axes(struct)):
            continue
        if dtype != "float32" and not _mentions(name, "scalar_t", "acc_t"):
            continue
        if name in FUSED:
            yield from _fused_jobs(name, dtype, among)
            continue
        for vector, (group_in, group_out), bits, coord_dtype in product(
            sorted({1, widest(dtype)}) if _mentions(name, "VECTOR") else [1],
            _small_groups() if _mentions(name, "GROUP_IN") else [(0, 0)],
            (32, 64),
            sorted({dtype, "float64" if dtype == "float64" else "float32"})
            if is_sum(name)
            else [None],
        ):
            if group_in and vector > 1 and vector % group_in:
                continue  # the engine never uses it
            variant = Variant(
                dtype, bits, vector, group_in, group_out, axes=axes, coord_dtype=coord_dtype
            )
            for arch in among:
                for width in sorted({1, _most_atomic_width(name, variant, arch)}):
                    yield Job(name, replace(variant, atomic_width=width), arch)


def _coord_dtypes(name: str, dtype: str) -> list[str | None]:
    """Dtypes of offsets and masks beside a dtype of the other arrays."""
    if not is_sum(name):
        return [None]
    return [dtype, "float32"] if dtype in ("float16", "bfloat16") else [dtype]


def _fused_jobs(name: str, dtype: str, among: Sequence[int]) -> Iterator[Job]:
    if dtype not in fused.DTYPES:
        return
    for tile in _tiles(dtype) if "fused/gemm_tile.cuh" in FILES[name] else [None]:
        variant = Variant(dtype, 32, widest(dtype), tile=tile)
        yield from (Job(name, variant, a) for a in among if a >= fused.MIN_CAPABILITY)


def _tiles(dtype: str) -> Iterator[GemmTile]:
    """Every tile with channel blocks of one stage, and the largest with other blocks."""
    widths = [n for n in (32, 64, 128, 256) if n <= MAX_N[ITEMSIZE[dtype]]]
    chunk = STAGE_VECS * widest(dtype)
    for products in (1, 3) if dtype == "float32" else (1,):
        for n in widths:
            yield from tile_shapes(n, chunk, products)
        yield tile_shapes(widths[-1], 5 * widest(dtype), products)[0]


def _most_atomic_width(name: str, variant: Variant, arch: int) -> int:
    """Elements that one atomic addition takes if nothing else is forced."""
    adds = adds_atomically(name)
    return atomic_width(variant.dtype, variant.vector, arch) if adds else 1


def _small_groups() -> list[tuple[int, int]]:
    sizes = range(1, MAX_PRODUCT + 1)
    return [(i, o) for i, o in product(sizes, sizes) if i * o <= MAX_PRODUCT]


@cache
def _mentions(name: str, *words: str) -> bool:
    text = "".join(map(read, FILES[name]))
    return any(re.search(rf"\b{word}\b", text) for word in words)


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
