"""What the CPU engine makes of sums of samples in their canonical form."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from support.canonical_sums import OPERANDS, RESULTS, Array, Arrays, CanonicalSum

from cudeform import cpu
from cudeform.arrays import DoubleGradients, Gradients, Tangents
from cudeform.options import Options

DEFAULT = Options()


def forward(case: CanonicalSum, options: Options = DEFAULT) -> Array:
    """The output."""
    output = _unwritten(case.grad_output)
    cpu.sums_forward(case.operands, case.g, options, output)
    return output


def backward(
    case: CanonicalSum, options: Options = DEFAULT, wanted: Sequence[str] = OPERANDS
) -> Arrays:
    """The gradients of some operands."""
    grads = {name: _unwritten(getattr(case, name)) for name in wanted}
    cpu.sums_backward(case.operands, case.g, options, case.grad_output, Gradients(**grads))
    return grads


def jvp(case: CanonicalSum, tangents: Arrays, options: Options = DEFAULT) -> Array:
    """The tangent of the output."""
    result = _unwritten(case.grad_output)
    cpu.sums_jvp(case.operands, case.g, options, Tangents(**tangents), result)
    return result


def double_backward(case: CanonicalSum, cotangents: Arrays, options: Options = DEFAULT) -> Arrays:
    """The gradients of a function of the gradients."""
    made = {name: _unwritten(getattr(case, name)) for name in RESULTS}
    along, results = Tangents(**cotangents), DoubleGradients(**made)
    cpu.sums_double_backward(case.operands, case.g, options, case.grad_output, along, results)
    return made


def _unwritten(like: Array) -> Array:
    return np.full(like.shape, np.nan, like.dtype)
