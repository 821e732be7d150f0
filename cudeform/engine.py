"""What every door calls: the operator and its derivatives on plain buffers.

A door hands over operands, their geometry and the arrays to write, which it allocates itself, in
its own library. Nothing is checked here: Geometry has done that.
"""

from __future__ import annotations

from typing import Any

from cudeform import cpu
from cudeform.geometry import Geometry
from cudeform.operands import Gradients, Operands
from cudeform.options import current


def forward(operands: Operands, geometry: Geometry, output: Any) -> None:
    """Write the deformable convolution of ``operands`` into ``output``, (N, O, OH, OW)."""
    cpu.forward(operands, geometry, current(), output)


def backward(operands: Operands, geometry: Geometry, grad_output: Any, grads: Gradients) -> None:
    """Write gradients into the arrays of ``grads``; those that are None are not computed."""
    cpu.backward(operands, geometry, current(), grad_output, grads)
