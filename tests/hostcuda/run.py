"""Run the cases of a file through the GPU engine, its kernels on the CPU.

    python tests/hostcuda/run.py CASES.npz RESULTS.npz

CASES.npz holds arrays named ``<case>/input``, ``<case>/offset``, ``<case>/weight`` and, where
present, ``<case>/bias``, ``<case>/mask``, ``<case>/grad_output``, all of one dtype, and integers
``<case>/params = [stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups,
offset_groups]``. RESULTS.npz gets ``<case>/output`` and, where ``grad_output`` is given,
``<case>/grad_input``, ``grad_offset``, ``grad_weight``, ``grad_bias`` and ``grad_mask``, in the
same dtype. A file cannot name bfloat16: arrays of two raw bytes (``V2``) are read as it.
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

from cudeform import gpu  # noqa: E402
from cudeform.arrays import Gradients, Operands  # noqa: E402
from cudeform.checks import GRADIENTS, check_dtypes  # noqa: E402
from cudeform.geometry import Geometry, geometry_of  # noqa: E402
from cudeform.options import Options  # noqa: E402
from hostcuda import HostDevice  # noqa: E402

Arrays = dict[str, NDArray[Any]]

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
REQUIRED = ("input", "offset", "weight", "params")
OPTIONAL = ("bias", "mask", "grad_output")
PARAMS = ("stride_h", "stride_w", "pad_h", "pad_w", "dilation_h", "dilation_w")
PARAMS += ("groups", "offset_groups")


def read_cases(path: str) -> dict[str, Arrays]:
    """The arrays of each case, by name."""
    cases: dict[str, Arrays] = {}
    with np.load(path) as file:
        for key in file.files:
            case, _, name = key.rpartition("/")
            if not case or name not in (*REQUIRED, *OPTIONAL):
                raise ValueError(f"arrays must be named <case>/input and so on, got {key!r}")
            array = file[key]
            cases.setdefault(case, {})[name] = (
                array.view(BFLOAT16) if array.dtype.str.endswith("V2") else array
            )
    return cases


def geometry(arrays: Arrays) -> Geometry:
    """The sizes of a case; raises ValueError if arrays and ``params`` do not fit together."""
    for name in REQUIRED:
        if name not in arrays:
            raise ValueError(f"{name} is missing")
    params = arrays["params"]
    if params.shape != (len(PARAMS),) or params.dtype.kind not in "iu":
        raise ValueError(f"params must be the integers {', '.join(PARAMS)}, got {params!r}")
    check_dtypes({n: array.dtype.name for n, array in arrays.items() if n != "params"})
    values = dict(zip(PARAMS, params.tolist(), strict=True))
    bias, mask = arrays.get("bias"), arrays.get("mask")
    g = geometry_of(
        arrays["input"].shape,
        arrays["offset"].shape,
        arrays["weight"].shape,
        None if bias is None else bias.shape,
        (values["stride_h"], values["stride_w"]),
        (values["pad_h"], values["pad_w"]),
        (values["dilation_h"], values["dilation_w"]),
        None if mask is None else mask.shape,
    )
    for name, rule in (
        ("groups", "C / weight.shape[1]"),
        ("offset_groups", "offset.shape[1] / (2*KH*KW)"),
    ):
        if getattr(g, name) != values[name]:
            raise ValueError(f"{name} must be {rule} = {getattr(g, name)}, got {values[name]}")
    grad_output = arrays.get("grad_output")
    if grad_output is not None and grad_output.shape != g.output_shape:
        raise ValueError(f"grad_output must have shape {g.output_shape}, got {grad_output.shape}")
    return g


def results_of(arrays: Arrays) -> Arrays:
    """Output and gradients of a case."""
    g, device, options = geometry(arrays), HostDevice(), Options()
    dtype = arrays["input"].dtype.name
    operands = Operands(**{n: device.put(arrays[n]) for n in GRADIENTS if n in arrays})
    output = device.empty(g.output_shape, dtype)
    gpu.forward(device, operands, g, options, output)
    results = {"output": device.read(output)}
    if "grad_output" in arrays:
        grads = {n: device.empty(a.shape, dtype) for n, a in operands.present().items()}
        grad_output = device.put(arrays["grad_output"])
        gpu.backward(device, operands, g, options, grad_output, Gradients(**grads))
        results |= {f"grad_{name}": device.read(grad) for name, grad in grads.items()}
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
