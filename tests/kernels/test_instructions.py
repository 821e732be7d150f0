"""The kernels that sample have no more instructions than the record."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support import nvrtc, sass
from support.sass import Counts, Loop

pytestmark = pytest.mark.skipif(
    not sass.available(), reason="needs NVRTC and nvdisasm: pip install nvidia-cuda-nvdisasm"
)

# By how much a count may exceed the record, and where another NVRTC compiles.
MARGIN, OTHER_MARGIN = 0.05, 0.2


@pytest.fixture(scope="module")
def table() -> dict[str, dict[str, Counts]]:
    return sass.count_all()


@pytest.fixture(scope="module")
def record() -> Any:
    return json.loads(sass.RECORD.read_text(encoding="utf-8"))


def beyond_record(table: dict[str, dict[str, Counts]], record: Any) -> list[str]:
    """What has grown; ``python tests/support/sass.py --write`` records anew."""
    margin = MARGIN if record["nvrtc"] == nvrtc.version() else OTHER_MARGIN
    found = []
    for name, row in table.items():
        for dtype, counts in row.items():
            for part, recorded in record["instructions"][name][dtype].items():
                if getattr(counts, part) > recorded * (1 + margin):
                    found.append(f"{name}, {dtype}: {part} {counts}, recorded {recorded}")
    return found


@pytest.mark.slow
def test_instructions_are_those_of_the_record(
    table: dict[str, dict[str, Counts]], record: Any
) -> None:
    assert beyond_record(table, record) == []


@pytest.mark.slow
def test_the_record_has_these_kernels_and_no_others(
    table: dict[str, dict[str, Counts]], record: Any
) -> None:
    wanted = {(name, dtype) for name, row in table.items() for dtype in row}
    rows = record["instructions"].items()
    assert {(name, dtype) for name, row in rows for dtype in row} == wanted
    assert record["arch"] == f"sm_{sass.ARCH}"


def test_the_table_in_the_benchmarks_readme_is_the_record(record: Any) -> None:
    text = (sass.RECORD.parent / "README.md").read_text(encoding="utf-8")
    assert [row for row in sass.rows(record) if row not in text] == []


@pytest.mark.slow
def test_more_instructions_are_seen(table: dict[str, dict[str, Counts]], record: Any) -> None:
    counts = table["deform_im2col"]["float16"]
    for more in (
        Counts(counts.vector * 2, counts.record),
        Counts(counts.vector, counts.record * 2),
    ):
        assert len(beyond_record({"deform_im2col": {"float16": more}}, record)) == 1


# ---- the rule ------------------------------------------------------------------------------------

PLANNED = """
.L_x_0:
        /*0010*/                   IMAD R0, R1, R2, R3 ;
        /*0020*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
.L_x_1:
        /*0030*/                   LDS R0, [R1] ;
.L_x_2:
        /*0040*/              @!P0 LDG.E.128.CONSTANT R4, desc[UR4][R2.64] ;
        /*0050*/               @P1 BRA `(.L_x_2) ;
        /*0060*/               @P0 BRA `(.L_x_1) ;
        /*0070*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*0080*/              @!P0 BRA `(.L_x_0) ;
        /*0090*/                   EXIT ;
.L_x_3:
        /*00a0*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
        /*00b0*/                   BRA `(.L_x_0) ;
"""


def test_loops_are_found() -> None:
    assert list(sass.loops(*sass.parsed(PLANNED))) == [Loop(3, 4), Loop(2, 5), Loop(0, 7)]


def test_the_loop_of_vectors_is_the_largest_without_a_barrier() -> None:
    assert sass.counted(PLANNED) == Counts(4, 4)


def test_without_barriers_it_is_the_smallest() -> None:
    assert sass.counted(PLANNED.replace("BAR.SYNC", "NOP")) == Counts(2, 2)


def test_a_kernel_that_loads_no_vectors_is_refused() -> None:
    with pytest.raises(ValueError, match="no loop loads vectors"):
        sass.counted(PLANNED.replace("LDG.E.128", "LDG.E.U16"))
