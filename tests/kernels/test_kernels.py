"""Every kernel compiles for every architecture without a GPU, within its register budget."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from support import kernel_jobs, nvrtc, registers
from support.kernel_jobs import Job, jobs, pairwise
from support.registers import Compiled

from cudeform.gpu.algorithms import fused
from cudeform.gpu.device_api.kernel_source import FILES, SCALARS, Variant, is_sum, kernel
from cudeform.gpu.variants import record_bytes, tangent_bytes

pytestmark = pytest.mark.skipif(
    nvrtc.library_path() is None, reason="needs NVRTC: pip install nvidia-cuda-nvrtc"
)

REGISTERS = 65536  # of a multiprocessor

# Of these, blocks of 256 threads get 64 each when four of them run at the same time, and 128 when
# two do.
FOUR_BLOCKS, TWO_BLOCKS = 64, 128
BUDGETS = {
    "deform_double_backward": 80,  # three blocks
    # A thread has a channel slice in registers, and the sums of its groups.
    "deform_direct": TWO_BLOCKS,
    "deform_direct_backward": TWO_BLOCKS,
    "deform_direct_grad_weight": TWO_BLOCKS,
}
# With eight corners.
BUDGETS_3D = {
    "deform_im2col_jvp": 80,
    "deform_backward": 80,
    "deform_double_backward": TWO_BLOCKS,
    "gather_grad_input": TWO_BLOCKS,  # a thread merges eight ranges
}


def budget(job: Job) -> int:
    """Registers that a thread may take."""
    tile = job.variant.tile
    if tile is not None and job.name == "deform_fused":
        return REGISTERS // (tile.threads * tile.blocks)
    if is_sum(job.name):
        return budget_of_sum(job)
    if job.name == "deform_double_backward" and job.variant.index_bits == 64:
        return TWO_BLOCKS
    if job.variant.axes == 3 and job.name in BUDGETS_3D:
        return BUDGETS_3D[job.name]
    return BUDGETS.get(job.name, FOUR_BLOCKS)


def budget_of_sum(job: Job) -> int:
    """Registers that a thread of a kernel of sums may take: more where numbers have 8 bytes."""
    narrow = job.variant.index_bits == 32 and job.variant.dtype != "float64"
    match job.name:
        case "deform_sum_double_backward":
            return TWO_BLOCKS if narrow else 255
        case "deform_sum_backward" | "deform_sum_jvp":
            many = narrow and (job.arch < 100 or job.name == "deform_sum_jvp")
            return 80 if many else TWO_BLOCKS
        case _:
            return FOUR_BLOCKS if narrow else 80


# Registers are given out by eights; another NVRTC may count a few more.
MARGIN = 8

SLOW = ("pairs", "related")


@pytest.fixture(
    scope="module", params=["few", *[pytest.param(p, marks=pytest.mark.slow) for p in SLOW]]
)
def results(request: pytest.FixtureRequest) -> list[Compiled]:
    if request.param == "related":
        return registers.run_all(one_of_each(list(jobs(nvrtc.archs(nvrtc.RELATED_ARCHS)))))
    typical = [job for job in jobs(nvrtc.archs()) if job.typical]
    return registers.run_all(few(typical) if request.param == "few" else pairwise(typical))


def few(among: list[Job]) -> list[Job]:
    """Each kernel with two axes: in float16 for a new architecture, in float32 for an old one."""
    widest_first = sorted(among, key=lambda job: job.variant.vector, reverse=True)
    found: dict[tuple[str, str], Job] = {}
    for job in widest_first:
        dtype, arch = job.variant.dtype, job.arch
        old = fused.MIN_CAPABILITY if job.name in kernel_jobs.FUSED else min(nvrtc.archs())
        if job.variant.axes == 2 and (dtype, arch) in (("float16", 90), ("float32", old)):
            found.setdefault((job.name, dtype), job)
    return list(found.values())


def one_of_each(among: list[Job]) -> list[Job]:
    """Each kernel once for each architecture: two axes, the widest vectors and GEMM tiles."""

    def size(job: Job) -> tuple[bool, int, int]:
        v = job.variant
        return v.axes == 2, v.vector, v.tile.n if v.tile else 0

    found: dict[tuple[str, int], Job] = {}
    for job in sorted(among, key=size, reverse=True):
        found.setdefault((job.name, job.arch), job)
    return list(found.values())


@pytest.fixture(scope="module")
def record() -> Any:
    return json.loads(registers.RECORD.read_text(encoding="utf-8"))


@pytest.mark.promise("nothing to build")
def test_every_kernel_compiles(results: list[Compiled]) -> None:
    assert {r.job.name for r in results} == set(FILES)


def test_one_variant_of_every_kernel_is_compiled_for_every_related_architecture() -> None:
    related = nvrtc.archs(nvrtc.RELATED_ARCHS)
    chosen = {(job.name, job.arch) for job in one_of_each(list(jobs(related)))}
    assert chosen == {(name, arch) for name in FILES for arch in related}
    assert related == list(nvrtc.RELATED_ARCHS) or float(nvrtc.version()) < 13


def test_the_typical_jobs_include_every_kernel_for_every_architecture() -> None:
    typical = [job for job in jobs(nvrtc.archs()) if job.typical]
    done = {(job.name, job.variant.dtype, job.arch) for job in typical}
    archs = nvrtc.archs()
    assert {75, 80, 86, 89, 90, 100, 120} <= set(archs)
    for name in set(FILES) - set(kernel_jobs.FUSED):
        dtypes = SCALARS if len({d for n, d, _ in done if n == name}) > 1 else ["float32"]
        assert {(name, dtype, arch) for dtype in dtypes for arch in archs} <= done
    able = [arch for arch in archs if arch >= fused.MIN_CAPABILITY]
    assert {("deform_fused", dtype, a) for dtype in ("float16", "float32") for a in able} <= done
    assert {(name, dtype, 90) for name in kernel_jobs.FUSED for dtype in fused.DTYPES} <= done


@pytest.mark.each_value
@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("dtype", SCALARS)
def test_records_and_tangents_are_as_large_as_the_host_believes(
    dtype: str, bits: int, axes: int
) -> None:
    variant = Variant(dtype, bits, 1, axes=axes)
    claims = {"SampleRecord": record_bytes(variant), "SampleTangent": tangent_bytes(variant)}
    lines = [f'static_assert(sizeof({name}) == {size}, "");' for name, size in claims.items()]
    source = "\n".join([kernel("deform_double_backward", variant).source, *lines])
    succeeded, log = nvrtc.compiled(source, 90)
    assert succeeded, log


def test_without_a_warning(results: list[Compiled]) -> None:
    assert [f"{r}: {r.complaints}" for r in results if r.complaints] == []


def test_without_spills_or_a_stack(results: list[Compiled]) -> None:
    assert [str(r) for r in results if r.spills or r.stack] == []


def test_registers_are_within_budget(results: list[Compiled]) -> None:
    assert over_budget(results) == []


def over_budget(results: list[Compiled]) -> list[str]:
    return [f"{r}: {r.registers}" for r in results if not 0 < r.registers <= budget(r.job)]


def test_registers_are_those_of_the_record(results: list[Compiled], record: Any) -> None:
    assert beyond_record(results, record) == []


def beyond_record(results: list[Compiled], record: Any) -> list[str]:
    """Kernels with more registers than recorded.

    ``python tests/support/registers.py --write`` writes a new record.
    """
    margin = MARGIN if record["nvrtc"] == nvrtc.version() else 2 * MARGIN
    found = []
    for result in results:
        arch = f"sm_{result.job.arch}"
        if arch not in record["archs"]:
            continue
        row = record["registers"].get(result.job.name, {}).get(result.job.key)
        recorded = row and row[record["archs"].index(arch)]
        if recorded is None:
            found.append(f"{result} is not recorded")
        elif result.registers > recorded + margin:
            found.append(f"{result}: {result.registers}, recorded {recorded}")
    return found


def test_the_record_has_no_kernel_that_is_gone(record: Any) -> None:
    every = {(job.name, job.key) for job in jobs(nvrtc.archs()) if job.typical}
    recorded = {(name, key) for name, rows in record["registers"].items() for key in rows}
    assert recorded >= every
    assert {name for name, _ in recorded} == set(FILES)


# ---- the gates close -----------------------------------------------------------------------------

JOB = Job("deform_im2col", Variant("float32", 32, 4), 80)


def judged(source: str) -> Compiled:
    return registers.judged(JOB, *nvrtc.compiled(source, JOB.arch))


def test_a_mistake_is_seen() -> None:
    source = kernel(JOB.name, JOB.variant).source
    assert "error" in judged(source.replace("__syncthreads()", "__syncthread()")).complaints
    assert "deform_im2col.cu(" in judged(source.replace("__syncthreads()", "oops")).complaints
    unused = source.replace("SampleRecord* records =", "int unread; SampleRecord* records =")
    assert "unread" in judged(unused).complaints


def test_spills_and_stacks_are_seen() -> None:
    indexed = """
        extern "C" __global__ void f(float* p, int n) {
            float t[64];
            for (int i = 0; i < 64; ++i) t[i * n % 64] = p[i];
            p[n] = t[n % 64];
        }"""
    assert judged(indexed).stack > 0
    crowded = """
        extern "C" __global__ void __launch_bounds__(1024, 2) f(float* p) {
            float t[128];
            #pragma unroll
            for (int i = 0; i < 128; ++i) t[i] = p[i * 32 + threadIdx.x];
            __syncthreads();
            #pragma unroll
            for (int i = 0; i < 128; ++i) p[i * 33 + threadIdx.x] = t[i] * t[127 - i];
        }"""
    result = judged(crowded)
    assert result.spills > 0
    assert result.registers == 32


def test_more_registers_are_seen(record: Any) -> None:
    result = registers.run(JOB)
    assert beyond_record([result], record) == over_budget([result]) == []
    more = replace(result, registers=result.registers + 2 * MARGIN + 8)
    assert len(beyond_record([more], record)) == 1
    assert len(over_budget([replace(result, registers=65)])) == 1
    unknown = replace(result, job=replace(JOB, variant=replace(JOB.variant, vector=2)))
    assert "is not recorded" in beyond_record([unknown], record)[0]
