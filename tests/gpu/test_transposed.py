"""Transposed convolutions on a device: the definition, determinism, workspace, empty arrays."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cases import HALF_DTYPES, Case
from checks import assert_agrees, random_like
from support.functions import CASES, TransposedCase, definition, functions_of
from support.gpu_engine import NewDevice, TestDevice

from cudeform.arrays import DoubleGradients, Gradients, Operands, Tangents
from cudeform.family import OPERATORS
from cudeform.options import Options
from cudeform.transposed.engine import ENGINE

TRANSPOSED = [case for case in CASES if isinstance(case, TransposedCase)]

every = pytest.mark.parametrize(
    "case",
    [pytest.param(c, id=c.name, marks=[pytest.mark.slow] * (c.axes != 2)) for c in TRANSPOSED],
)


def geometry(case: Case) -> Any:
    entry = OPERATORS[case.operator]
    shapes = {name: array.shape for name, array in case.operands.items()}
    return entry.geometry(Operands(**_with_absent(shapes)), entry.settings(**case.settings))


def _with_absent(present: dict[str, Any]) -> dict[str, Any]:
    return {name: present.get(name) for name in Operands._fields}


def everything(device: TestDevice, case: Case, options: Options | None = None) -> dict[str, Any]:
    """Output and gradients, by name."""
    options, g, dtype = options or Options(), geometry(case), case.input.dtype.name
    operands = Operands(**_with_absent({n: device.put(a) for n, a in case.operands.items()}))
    output = device.empty(g.output_shape, dtype)
    ENGINE.forward(operands, g, options, output, device)  # type: ignore[arg-type]
    grads = {name: device.empty(array.shape, dtype) for name, array in case.operands.items()}
    arrays = device.put(case.grad_output), Gradients(**grads)
    ENGINE.backward(operands, g, options, *arrays, device)  # type: ignore[arg-type]
    return {name: device.read(array) for name, array in {"output": output, **grads}.items()}


def second_order(
    device: TestDevice, case: Case, along: dict[str, Any], options: Options | None = None
) -> dict[str, Any]:
    """The tangent of the output, and double gradients, by name."""
    options, g, dtype = options or Options(), geometry(case), case.input.dtype.name
    operands = Operands(**_with_absent({n: device.put(a) for n, a in case.operands.items()}))
    tangents = Tangents(**{name: device.put(array) for name, array in along.items()})
    tangent = device.empty(g.output_shape, dtype)
    ENGINE.jvp(operands, g, options, tangents, tangent, device)  # type: ignore[arg-type]
    wanted = {"grad_output": case.grad_output, **case.operands}
    del wanted["bias"]
    results = {name: device.empty(array.shape, dtype) for name, array in wanted.items()}
    arrays = device.put(case.grad_output), tangents, DoubleGradients(**results)
    ENGINE.double_backward(operands, g, options, *arrays, device)  # type: ignore[arg-type]
    return {name: device.read(array) for name, array in {"jvp": tangent, **results}.items()}


@pytest.mark.promise("right")
@every
@pytest.mark.parametrize("dtype", ["float64", "float32", *HALF_DTYPES])
def test_output_and_gradients_are_the_definition(
    new_device: NewDevice, case: Case, dtype: str
) -> None:
    case = case.cast(dtype)
    sums = definition(case)
    for name, array in everything(new_device(), case).items():
        # Columns are rounded, their sums, and these once more where the bias is added.
        assert_agrees(array, sums[name], f"{case.name}: {name}", roundings=3)


@pytest.mark.promise("differentiable twice")
@every
@pytest.mark.parametrize("without", [(), ("input",), ("offset", "weight", "mask")], ids=str)
def test_derivatives_are_those_of_the_cpu(
    new_device: NewDevice, case: Case, without: tuple[str, ...]
) -> None:
    along = {n: a for n, a in random_like(case.operands).items() if n not in without}
    got = second_order(new_device(), case, along)
    functions, tangents = functions_of(case), Tangents(**along)
    wanted = functions.double_backward(tangents, **case.backward_arguments)._asdict()
    wanted["jvp"] = functions.jvp(tangents, **case.arguments)
    for name, array in got.items():
        np.testing.assert_allclose(array, wanted[name], rtol=1e-12, atol=1e-12, err_msg=name)


@pytest.mark.promise("reproducible")
@every
def test_deterministic_calls_never_add_atomically(case: Case) -> None:
    hostcuda = pytest.importorskip("hostcuda")
    options, case = Options(deterministic=True), case.cast("float32")
    device = hostcuda.HostDevice()
    everything(device, case, options)
    second_order(device, case, random_like(case.operands), options)
    assert sum(getattr(did, "added", 0) for did in device.log) == 0


@every
def test_a_workspace_limit_changes_no_more_than_rounding(new_device: NewDevice, case: Case) -> None:
    free = everything(new_device(), case)
    bounded = everything(new_device(), case, Options(workspace_limit=2**18))
    for name, array in bounded.items():
        np.testing.assert_allclose(array, free[name], rtol=1e-12, atol=1e-12, err_msg=name)


def test_absent_operands_and_empty_batches(new_device: NewDevice) -> None:
    case = replace(TRANSPOSED[1], bias=None, mask=None)
    sums = definition(case)
    for name, array in everything(new_device(), case).items():
        assert_agrees(array, sums[name], name, roundings=2)
    empty = replace(TRANSPOSED[1], **{n: getattr(case, n)[:0] for n in ("input", "offset")})
    empty = replace(empty, mask=empty.mask[:0], grad_output=empty.grad_output[:0])
    results = everything(new_device(), empty)
    assert results["output"].shape[0] == 0
    assert not results["weight"].any()
    assert not results["bias"].any()
