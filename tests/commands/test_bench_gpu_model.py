"""The lower bounds of the GPU benchmark equal those computed by hand."""

from __future__ import annotations

import pytest
from support.fake_gpu import SMALL, fake_gpu, report_of

from cudeform_bench.configs import GPU, OPERATORS_GPU, SUMS_GPU, named
from cudeform_bench.gpu.model import MODES, floors_us, shares


@pytest.mark.parametrize(
    ("name", "products", "memory", "gather", "scatter"),
    # Microseconds: float32, TensorFloat-32 and bfloat16; float32 and bfloat16; the same; float32.
    [
        ("A1", (148, 20.0, 12.5), (9.0, 4.5), (20.9, 10.4), 229),
        ("A4", (148, 20.0, 12.5), (4.2, 2.1), (5.2, 2.6), 57),
        ("B4", (127, 17.2, 10.8), (33.5, 16.8), (35.8, 17.9), 393),
        ("C3", (98, 13.3, 8.3), (2.5, 1.3), (6.9, 3.5), 76),
        ("C4", (2, 0.3, 0.2), (16.4, 8.2), (41.8, 20.9), 459),
    ],
)
def test_floors(
    name: str,
    products: tuple[float, ...],
    memory: tuple[float, ...],
    gather: tuple[float, ...],
    scatter: float,
) -> None:
    (config,) = named(name)
    fp32, tf32, bf16 = (floors_us(config, MODES[m], "forward") for m in ("fp32", "tf32", "bf16"))
    for floors, expected in zip((fp32, tf32, bf16), products, strict=True):
        assert floors["products"] == pytest.approx(expected, rel=0.02, abs=0.5)
    for floors, bytes_, corners in zip((fp32, bf16), memory, gather, strict=True):
        assert floors["memory"] == pytest.approx(bytes_, rel=0.02, abs=0.06)
        assert floors["gather"] == pytest.approx(corners, rel=0.02)
        assert "scatter" not in floors
    assert floors_us(config, MODES["fp16"], "backward")["scatter"] == pytest.approx(
        scatter, rel=0.01
    )


@pytest.mark.parametrize(
    ("name", "forward", "backward"),
    # Microseconds in bfloat16: gather and scatter of a forward, the same of a backward.
    [
        ("L1", (6.8, None), (6.8, 149)),
        ("V1", (122, None), (122, 2684)),
        ("V2", (413, None), (413, 9060)),
        ("T1", (None, 50), (2.3, None)),
        ("T2", (None, 87), (4.0, None)),
    ],
)
def test_floors_of_other_operators(
    name: str, forward: tuple[float | None, ...], backward: tuple[float | None, ...]
) -> None:
    (config,) = named(name)
    for direction, expected in {"forward": forward, "backward": backward}.items():
        floors = floors_us(config, MODES["bf16"], direction)
        found = floors.get("gather"), floors.get("scatter")
        assert found == tuple(each and pytest.approx(each, rel=0.02) for each in expected)


@pytest.mark.parametrize(
    ("name", "memory", "gather", "scatter"),
    # Microseconds: a forward and a backward in half precision, a forward in half, a backward.
    [
        ("E1", (9.3, 15.9), 25, 539),
        ("E2", (37, 64), 99, 2158),
        ("D1", (44, 76), 63, 1370),
        ("D5", (14, 24), 20, 437),
    ],
)
def test_floors_of_sums(
    name: str, memory: tuple[float, float], gather: float, scatter: float
) -> None:
    (config,) = named(name)
    forward, backward = (floors_us(config, MODES["fp16"], d) for d in ("forward", "backward"))
    assert set(forward) == {"memory", "gather"}
    assert set(backward) == {"memory", "gather", "scatter"}
    assert (forward["memory"], backward["memory"]) == pytest.approx(memory, rel=0.03)
    assert forward["gather"] == pytest.approx(gather, rel=0.03)
    assert backward["scatter"] == pytest.approx(scatter, rel=0.01)


def test_both_directions_take_as_much_as_each() -> None:
    for config in GPU + OPERATORS_GPU + SUMS_GPU:
        one, two, both = (
            floors_us(config, MODES["tf32"], d) for d in ("forward", "backward", "both")
        )
        for name, floor in both.items():
            assert floor == pytest.approx(one.get(name, 0) + two.get(name, 0))


def test_shares_are_floors_by_time() -> None:
    floors = floors_us(SMALL, MODES["fp16"], "forward")
    found = shares(SMALL, MODES["fp16"], "forward", 10.0)
    assert found == {name: pytest.approx(floor / 10) for name, floor in floors.items()}


def test_floors_of_memory_are_those_of_the_gpu() -> None:
    two, one = (
        report_of(fake_gpu(name=name)).measurements[0].shares
        for name in ("NVIDIA H200", "NVIDIA H100 80GB HBM3")
    )
    assert one["memory"] == pytest.approx(two["memory"] * 4.3 / 3.0)
    assert {name: one[name] for name in ("products", "gather")} == {
        name: two[name] for name in ("products", "gather")
    }
    assert report_of(fake_gpu(name="NVIDIA H100 80GB HBM3")).rates["memory"] == 3.0e12
