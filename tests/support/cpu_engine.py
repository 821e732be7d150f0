"""The CPU engine on a case in any number of dimensions, without the functions that users call."""

from __future__ import annotations

from typing import Any

import numpy as np
from cases import Case

from cudeform import engine
from cudeform.arrays import DoubleGradients, Gradients, Operands, Tangents
from cudeform.geometry import Geometry, geometry_of
from cudeform.options import Options

Arrays = dict[str, Any]

DEFAULT = Options()


def geometry(case: Case) -> Geometry:
    """The sizes of a case."""
    return geometry_of(
        case.input.shape,
        case.offset.shape,
        case.weight.shape,
        None if case.bias is None else case.bias.shape,
        case.stride,
        case.padding,
        case.dilation,
        None if case.mask is None else case.mask.shape,
        axes=case.axes,
    )


def forward(case: Case, options: Options = DEFAULT) -> Any:
    """The output."""
    g = geometry(case)
    output = np.empty(g.output_shape, case.input.dtype)
    engine.forward(Operands(**case.operands), g, options, output)
    return output


def backward(case: Case, options: Options = DEFAULT, needs: tuple[str, ...] = ()) -> Arrays:
    """The gradients by name; of all arguments unless some are named."""
    wanted = {n: a for n, a in case.operands.items() if not needs or n in needs}
    grads = {name: np.empty(array.shape, array.dtype) for name, array in wanted.items()}
    operands = Operands(**case.operands)
    engine.backward(operands, geometry(case), options, case.grad_output, Gradients(**grads))
    return grads


def everything(case: Case, options: Options = DEFAULT) -> Arrays:
    """The output and all gradients, by name."""
    return {"output": forward(case, options), **backward(case, options)}


def jvp(case: Case, tangents: Arrays, options: Options = DEFAULT) -> Any:
    """The tangent of the output."""
    g = geometry(case)
    output = np.empty(g.output_shape, case.input.dtype)
    engine.jvp(Operands(**case.operands), g, options, Tangents(**tangents), output)
    return output


def double_backward(case: Case, cotangents: Arrays, options: Options = DEFAULT) -> Arrays:
    """The gradients of ``sum(cotangents * backward)``, by name."""
    wanted = {"grad_output": case.grad_output, **case.operands}
    wanted.pop("bias", None)
    results = {name: np.empty(array.shape, array.dtype) for name, array in wanted.items()}
    engine.double_backward(
        Operands(**case.operands),
        geometry(case),
        options,
        case.grad_output,
        Tangents(**cotangents),
        DoubleGradients(**results),
    )
    return results
