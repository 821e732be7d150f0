"""``tests/hostcuda/run.py`` on operators that sum samples, beside the CPU engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checks import needs_compiler
from hostcuda.run import main

import cudeform

pytestmark = needs_compiler

LEVELS = ((6, 5), (3, 4), (2, 1))
RNG = np.random.default_rng(0)


def random(*shape: int) -> Any:
    return RNG.standard_normal(shape)


CASES: dict[str, tuple[dict[str, Any], Any, dict[str, Any]]] = {
    "ms_deform_attn": (
        {
            "value": random(2, 44, 3, 8),
            "sampling_locations": RNG.uniform(-0.1, 1.1, (2, 7, 3, 3, 4, 2)),
            "attention_weights": random(2, 7, 3, 3, 4),
        },
        LEVELS,
        {"spatial_shapes": LEVELS},
    ),
    "dcnv3": (
        {
            "input": random(2, 8, 11, 6),
            "offset": random(2, 3, 13, 84),
            "mask": random(2, 3, 13, 42),
        },
        (5, 3, 2, 1, 1, 2, 1, 1, 0.7, 1),
        {
            "kernel_size": (5, 3),
            "stride": (2, 1),
            "padding": (1, 2),
            "offset_scale": 0.7,
            "remove_center": True,
        },
    ),
    "dcnv4": (
        {"input": random(2, 8, 11, 6), "offset_mask": random(2, 8, 9, 56)},
        (1, 5, 3, 1, 1, 0, 1, 1, 1, 1, 0),
        {"kernel_size": (1, 5), "groups": 3, "padding": (0, 1)},
    ),
}


def run(folder: Path, arrays: dict[str, Any]) -> int:
    np.savez(folder / "cases.npz", **arrays)
    return main([str(folder / "cases.npz"), str(folder / "results.npz")])


def test_sums_by_their_public_names(tmp_path: Path) -> None:
    cases: dict[str, Any] = {}
    expected: dict[str, Any] = {}
    for name, (operands, params, settings) in CASES.items():
        output = getattr(cudeform, name)(**operands, **settings)
        grad_output = random(*output.shape)
        grads = getattr(cudeform, f"{name}_backward")(grad_output, **operands, **settings)
        expected[f"{name}/output"] = output
        expected |= {f"{name}/grad_{n}": grad for n, grad in grads._asdict().items()}
        arrays = {"operator": name, "params": params, "grad_output": grad_output, **operands}
        cases |= {f"{name}/{key}": np.array(array) for key, array in arrays.items()}
    assert run(tmp_path, cases) == 0
    with np.load(tmp_path / "results.npz") as results:
        assert set(results.files) == set(expected)
        for key, array in expected.items():
            np.testing.assert_allclose(results[key], array, rtol=0, atol=1e-12, err_msg=key)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("ms_deform_attn", {"value": None}, "x: value is missing"),
        ("ms_deform_attn", {"params": (1, 2)}, "x: params must be integers (height, width)"),
        ("dcnv3", {"params": (1, 2)}, "x: params must be the numbers kernel_h, kernel_w, "),
        ("dcnv4", {"params": (1, 2)}, "x: params must be the numbers kernel_h, kernel_w, groups, "),
        ("dcnv3", {"mask": np.zeros((2, 3, 13, 41))}, "x: mask must"),
        ("dcnv3", {"mask": np.zeros((2, 3, 13, 42), np.float32)}, "x: mask must have the dtype"),
        ("dcnv3", {"grad_output": np.zeros(1)}, "x: grad_output must have shape"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    change: dict[str, Any],
    message: str,
) -> None:
    operands, params, _ = CASES[name]
    arrays = {"operator": name, "params": params, **operands} | change
    assert run(tmp_path, {f"x/{k}": np.array(v) for k, v in arrays.items() if v is not None}) == 1
    assert message in capsys.readouterr().err
