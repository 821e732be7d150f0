"""Run the cases of a file through the GPU engine, its kernels on the CPU.

    python tests/hostcuda/run.py CASES.npz RESULTS.npz

CASES.npz holds the arguments of a public function for each case:

* ``<case>/operator``: the name of the function, ``deform_conv1d``, ``deform_conv_transpose2d`` or
  another one of the table in ``cudeform/family.py``; by default ``deform_conv2d``;
* ``<case>/input``, ``<case>/offset``, ``<case>/weight`` and, where present, ``<case>/bias``,
  ``<case>/mask``: arrays named as its arguments;
* ``<case>/params``: its settings as integers in the order of its signature, with a number for each
  axis: strides, paddings, dilations. ``groups`` and ``offset_groups`` may follow, and are checked.
  Transposed convolutions have output paddings before the dilations, and need ``groups``;
* ``<case>/grad_output``, if the gradients are wanted.

Operators that sum samples take ``<case>/value``, ``sampling_locations`` and ``attention_weights``,
or ``input``, ``offset`` and ``mask``, or ``input`` and ``offset_mask``. The ``params`` of
``ms_deform_attn`` are a row (height, width) for each level, or (height, width, points); those of
``dcnv3`` are ``kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w,
offset_scale, remove_center``, and those of ``dcnv4`` have ``groups`` after ``kernel_w``.

For a convolution in two dimensions ``params = [stride_h, stride_w, pad_h, pad_w, dilation_h,
dilation_w, groups, offset_groups]``.

RESULTS.npz gets ``<case>/output`` and, where ``grad_output`` is given, ``<case>/grad_input`` and so
on for each operand, in the dtypes of the operands. A file cannot name bfloat16: arrays of two raw
bytes (``V2``) are read as it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    # Python puts this folder first; its files would shadow modules of the same names.
    sys.path[0] = str(ROOT / "tests")

from cudeform.arrays import Gradients, Operands  # noqa: E402
from cudeform.checks import GRADIENTS, check_dtypes  # noqa: E402
from cudeform.family import OPERATORS  # noqa: E402
from cudeform.options import Options  # noqa: E402
from cudeform.settings import AXIS_NAMES  # noqa: E402
from cudeform.shape_rules import ShapeRules  # noqa: E402
from cudeform.spec import AnyGeometry, AnySettings, Operator  # noqa: E402
from hostcuda import HostDevice  # noqa: E402
from hostcuda.run_sums import sum_geometry  # noqa: E402

Arrays = dict[str, NDArray[Any]]

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
REQUIRED = ("input", "offset", "weight", "params")
OPTIONAL = ("operator", "bias", "mask", "grad_output")
DEFAULT_OPERATOR = "deform_conv2d"
SHORT = {"padding": "pad"}  # names of settings in error texts
INFERRED = ("groups", "offset_groups")
NOT_OPERANDS = ("operator", "params")
NAMES = {*REQUIRED, *OPTIONAL, *(o.public for op in OPERATORS.values() for o in op.operands)}


def read_cases(path: str) -> dict[str, Arrays]:
    """The arrays of each case, by name."""
    cases: dict[str, Arrays] = {}
    with np.load(path) as file:
        for key in file.files:
            case, _, name = key.rpartition("/")
            if not case or name not in NAMES:
                raise ValueError(f"arrays must be named <case>/input and so on, got {key!r}")
            array = file[key]
            cases.setdefault(case, {})[name] = (
                array.view(BFLOAT16) if array.dtype.str.endswith("V2") else array
            )
    return cases


def geometry(arrays: Arrays) -> AnyGeometry:
    """The sizes of a case; raises ValueError if arrays and ``params`` do not fit together."""
    operator, axes = operator_of(arrays), operator_of(arrays).axes
    if not operator.parameters:
        return _with_grad_output(sum_geometry(operator, arrays), arrays)
    for name in REQUIRED:
        if name not in arrays:
            raise ValueError(f"{name} is missing")
    settings, inferred = settings_of(operator, arrays["params"])
    operands = {name: arrays[name] for name in GRADIENTS if name in arrays}
    check_dtypes({n: array.dtype.name for n, array in arrays.items() if n not in NOT_OPERANDS})
    shapes = Operands(*(arrays[n].shape if n in operands else None for n in GRADIENTS))
    g = operator.geometry(shapes, settings)
    coordinates = ShapeRules.of(axes).coordinates
    rules = ("C / weight.shape[1]", f"offset.shape[1] / ({coordinates})")
    found = getattr(g, "convolution", g)
    for name, rule, value in zip(INFERRED, rules, inferred, strict=False):
        if getattr(found, name) != value:
            raise ValueError(f"{name} must be {rule} = {getattr(found, name)}, got {value}")
    return _with_grad_output(g, arrays)


def _with_grad_output(g: AnyGeometry, arrays: Arrays) -> AnyGeometry:
    """The sizes, after a check of the gradient of the output."""
    grad_output = arrays.get("grad_output")
    if grad_output is not None and grad_output.shape != g.output_shape:
        raise ValueError(f"grad_output must have shape {g.output_shape}, got {grad_output.shape}")
    return g


def operator_of(arrays: Arrays) -> Operator:
    """The entry of the table that a case names."""
    name = arrays["operator"].item() if "operator" in arrays else DEFAULT_OPERATOR
    if name not in OPERATORS:
        raise ValueError(f"operator must be one of {', '.join(OPERATORS)}, got {name!r}")
    return OPERATORS[name]


def settings_of(operator: Operator, params: NDArray[Any]) -> tuple[AnySettings, tuple[int, ...]]:
    """The settings of a case; then groups and offset groups, if they are given to be checked."""
    axes = operator.axes
    letters = [name[0] for name in AXIS_NAMES[-axes:]]
    fields = [name for name in operator.settings._fields if name != "groups"]
    names = [f"{SHORT.get(field, field)}_{letter}" for field in fields for letter in letters]
    fits = params.shape in ((len(names),), (len(names) + len(INFERRED),))
    needs_groups = "groups" in operator.settings._fields
    fits = fits and not (needs_groups and params.shape == (len(names),))
    fits = fits or (needs_groups and params.shape == (len(names) + 1,))
    if not fits or params.dtype.kind not in "iu":
        raise ValueError(
            f"params must be the integers {', '.join(names)} and, where they are to be checked, "
            f"{', '.join(INFERRED)}, got {params!r}"
        )
    values = tuple(params.tolist())
    given = {field: values[i * axes : (i + 1) * axes] for i, field in enumerate(fields)}
    rest = values[len(names) :]
    if needs_groups:
        given["groups"] = rest[0]
    settings: AnySettings = operator.settings(**given)
    return settings, rest


def results_of(arrays: Arrays) -> Arrays:
    """Output and gradients of a case."""
    g, device, options = geometry(arrays), HostDevice(), Options()
    engine: Any = operator_of(arrays).engine
    public = {operand.name: operand.public for operand in operator_of(arrays).operands}
    operands = Operands(**{n: device.put(arrays[p]) for n, p in public.items() if p in arrays})
    output = device.empty(g.output_shape, operands.input.dtype)
    engine.forward(operands, g, options, output, device)
    results = {"output": device.read(output)}
    if "grad_output" in arrays:
        grads = {n: device.empty(a.shape, a.dtype) for n, a in operands.present().items()}
        grad_output = device.put(arrays["grad_output"])
        engine.backward(operands, g, options, grad_output, Gradients(**grads), device)
        results |= {f"grad_{public[name]}": device.read(grad) for name, grad in grads.items()}
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    parser = argparse.ArgumentParser(
        description="Run cases through the GPU engine, its kernels on the CPU."
    )
    parser.add_argument("cases", metavar="CASES.npz")
    parser.add_argument("results", metavar="RESULTS.npz")
    paths = parser.parse_args(arguments)
    results: Arrays = {}
    try:
        cases = read_cases(paths.cases)
    except (OSError, ValueError) as error:
        print(f"{paths.cases}: {error}", file=sys.stderr)
        return 1
    for case, arrays in cases.items():
        try:
            results |= {f"{case}/{name}": array for name, array in results_of(arrays).items()}
        except (TypeError, ValueError) as error:
            print(f"{case}: {error}", file=sys.stderr)
            return 1
    np.savez(paths.results, **results)  # type: ignore[arg-type]
    return 0


if __name__ == "__main__":
    sys.exit(main())
