"""``python tests/hostcuda/run.py CASES.npz RESULTS.npz`` runs cases on the GPU engine."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import ARRAYS, DTYPES, Case, build
from checks import assert_agrees, needs_compiler
from reference import reference
from support.functions import CASES, build_transposed, definition

pytestmark = needs_compiler

SCRIPT = Path(__file__).resolve().parents[1] / "hostcuda" / "run.py"

PADDING = ((2, 2), (1, 1))
GROUPED = build(
    "grouped",
    channels=6,
    out_channels=4,
    groups=2,
    offset_groups=3,
    stride=(2, 1),
    padding=PADDING,
    dilation=(1, 2),
)
PARAMS = [2, 1, 2, 1, 1, 2, 2, 3]
PLAIN = build("plain", channels=8, out_channels=5, bias=False, mask=False)
LINE = build("line", size=(9,), kernel=(3,), stride=(2,), padding=((1, 1),), dilation=(3,))
VOLUME = build(
    "volume",
    size=(3, 5, 4),
    kernel=(2, 3, 1),
    stride=(1, 2, 3),
    padding=((2, 2), (1, 1), (0, 0)),
    dilation=(3, 1, 2),
    groups=2,
    out_channels=2,
)
[_TRANSPOSED] = [case for case in CASES if case.operator == "deform_conv_transpose2d"]
# A file has one padding an axis, so a case of its own.
_OUT = _TRANSPOSED.grad_output[:, :, :4]
UPSAMPLED = replace(_TRANSPOSED, padding=((2, 2), (1, 1)), grad_output=_OUT[..., :11])
LONGER = build_transposed(
    "longer",
    size=(5,),
    kernel=(3,),
    stride=(2,),
    padding=((1, 1),),
    output_padding=(1,),
    dilation=(3,),
)
LARGER = build_transposed(
    "larger",
    size=(2, 3, 2),
    kernel=(2, 3, 1),
    stride=(2, 1, 3),
    padding=((0, 0), (1, 1), (0, 0)),
    output_padding=(1, 0, 2),
    dilation=(1, 2, 1),
)
OPERATORS = [
    ("deform_conv1d", LINE, [2, 1, 3]),
    ("deform_conv1d", LINE, [2, 1, 3, 1, 1]),
    ("deform_conv2d", GROUPED, PARAMS[:6]),
    ("deform_conv3d", VOLUME, [1, 2, 3, 2, 1, 0, 3, 1, 2]),
    (UPSAMPLED.operator, UPSAMPLED, [1, 3, 2, 1, 1, 2, 2, 1, 2]),
    (UPSAMPLED.operator, UPSAMPLED, [1, 3, 2, 1, 1, 2, 2, 1, 2, 2]),
    pytest.param("deform_conv_transpose1d", LONGER, [2, 1, 1, 3, 2], marks=pytest.mark.slow),
    pytest.param(
        "deform_conv_transpose3d",
        LARGER,
        [2, 1, 3, 0, 1, 0, 1, 0, 2, 1, 2, 1, 2],
        marks=pytest.mark.slow,
    ),
]


def run(folder: Path, arrays: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    np.savez(folder / "cases.npz", **arrays)
    command = [sys.executable, str(SCRIPT), "cases.npz", "results.npz"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def arrays_of(prefix: str, case: Case, params: list[int]) -> dict[str, Any]:
    present = {name: getattr(case, name) for name in ARRAYS if getattr(case, name) is not None}
    return {f"{prefix}/{name}": array for name, array in present.items()} | {
        f"{prefix}/params": np.array(params)
    }


@pytest.mark.parametrize(
    "dtypes",
    [["float64"], pytest.param(list(DTYPES), marks=pytest.mark.slow)],
    ids=["one dtype", "every dtype"],
)
def test_several_cases_in_one_file(tmp_path: Path, dtypes: list[str]) -> None:
    arrays: dict[str, Any] = {}
    for dtype in dtypes:
        arrays |= arrays_of(f"a group/{dtype}", GROUPED.cast(dtype), PARAMS)
        arrays |= arrays_of(dtype, PLAIN.cast(dtype), [1, 1, 0, 0, 1, 1, 1, 1])
    del arrays["float64/grad_output"]
    done = run(tmp_path, arrays)
    assert (done.returncode, done.stderr) == (0, "")
    seen = set()
    with np.load(tmp_path / "results.npz") as results:
        for dtype in dtypes:
            for prefix, case in ((f"a group/{dtype}", GROUPED), (dtype, PLAIN)):
                case = case.cast(dtype)
                sums = reference(**case.backward_arguments)
                sums = {n if n == "output" else f"grad_{n}": total for n, total in sums.items()}
                if prefix == "float64":
                    sums = {"output": sums["output"]}
                for name, total in sums.items():
                    seen.add(f"{prefix}/{name}")
                    array = results[f"{prefix}/{name}"]
                    assert array.dtype == (DTYPES[dtype] if dtype != "bfloat16" else "V2")
                    assert_agrees(array.view(DTYPES[dtype]), total, name, roundings=2)
        assert set(results.files) == seen


@pytest.mark.parametrize(("operator", "case", "params"), OPERATORS)
def test_an_operator_by_its_public_name(
    tmp_path: Path, operator: str, case: Case, params: list[int]
) -> None:
    case = case.cast("float64")
    done = run(tmp_path, arrays_of("x", case, params) | {"x/operator": np.array(operator)})
    assert (done.returncode, done.stderr) == (0, "")
    with np.load(tmp_path / "results.npz") as results:
        for name, total in definition(case).items():
            key = "x/output" if name == "output" else f"x/grad_{name}"
            assert_agrees(results[key], total, name, roundings=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"x/params": np.array([*PARAMS[:6], 1, 3])},
            "x: groups must be C / weight.shape[1] = 2, got 1",
        ),
        (
            {"x/params": np.array([*PARAMS[:6], 2, 1])},
            "x: offset_groups must be offset.shape[1] / (2*KH*KW) = 3, got 1",
        ),
        ({"x/params": np.array(PARAMS[:5])}, "x: params must be the integers stride_h, stride_w, "),
        (
            {"x/operator": np.array("conv2d")},
            "x: operator must be one of deform_conv1d, deform_conv2d, deform_conv3d, "
            "deform_conv_transpose1d, deform_conv_transpose2d, deform_conv_transpose3d, "
            "ms_deform_attn, dcnv3, dcnv4, "
            "got 'conv2d'",
        ),
        (
            {"x/operator": np.array("deform_conv3d")},
            "x: params must be the integers stride_d, stride_h, stride_w, pad_d, ",
        ),
        ({"x/params": np.array(PARAMS, float)}, "x: params must be the integers"),
        ({"x/offset": None}, "x: offset is missing"),
        ({"x/other": np.zeros(1)}, "arrays must be named <case>/input and so on, got 'x/other'"),
        ({"input": np.zeros(1)}, "arrays must be named <case>/input and so on, got 'input'"),
        ({"x/grad_output": np.zeros((2, 4, 1, 1))}, "x: grad_output must have shape"),
        (
            {"x/weight": np.zeros((4, 3, 3, 3), np.float32)},
            "x: weight must have the dtype of input, float64, got float32",
        ),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    arrays = arrays_of("x", GROUPED.cast("float64"), PARAMS) | change
    done = run(tmp_path, {name: array for name, array in arrays.items() if array is not None})
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "results.npz").exists()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "nothing.npz", "results.npz"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "nothing.npz" in done.stderr
    assert "Traceback" not in done.stderr
