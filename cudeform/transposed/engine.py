"""The engine of the transposed deformable convolution, composed of that of a convolution.

Let ``F`` be the convolution, and ``B(x, c) = sum(x * F(c))``, where ``c`` is an image of the size
of the output of the transposed convolution. The transposed convolution is ``T(x) = dB/dc``, plus
the bias. So each function is composed of functions of F:

* forward: the gradient of F's input, with x as ``grad_output``;
* backward, for a gradient c of the output: the gradient of x is ``F(c)``. The gradients of offset,
  weight and mask are those of F at the input c, with x as ``grad_output``. The gradient of the bias
  is the sum of c over images and pixels;
* jvp: the forward of the tangent of x, plus the gradient of ``c`` in F's double backward along the
  tangents of offset, weight and mask;
* double backward along cotangents v: F's backward at the input c with v_x as ``grad_output``, plus
  F's double backward along the other cotangents.
"""

from __future__ import annotations

from typing import Any

from cudeform.arrays import DoubleGradients, Gradients, Operands, Tangents
from cudeform.engine import ComposedEngine
from cudeform.options import Options


def _forward(
    engine: Any, arithmetic: Any, operands: Operands, geometry: Any, options: Options, output: Any
) -> None:
    _write_transposed(engine, arithmetic, operands, geometry, options, operands.input, output)
    if operands.bias is not None:
        arithmetic.add_bias(output, operands.bias)


def _backward(
    engine: Any,
    arithmetic: Any,
    operands: Operands,
    geometry: Any,
    options: Options,
    grad_output: Any,
    grads: Gradients,
) -> None:
    convolution, g = _convolution(operands, grad_output), geometry.convolution
    if grads.input is not None:
        engine.forward(convolution, g, options, grads.input)
    others = Gradients(offset=grads.offset, weight=grads.weight, mask=grads.mask)
    if _any(others):
        engine.backward(convolution, g, options, operands.input, others)
    if grads.bias is not None:
        arithmetic.sum_channels(grad_output, grads.bias)


def _jvp(
    engine: Any,
    arithmetic: Any,
    operands: Operands,
    geometry: Any,
    options: Options,
    tangents: Tangents,
    result: Any,
) -> None:
    along = Tangents(offset=tangents.offset, weight=tangents.weight, mask=tangents.mask)
    if tangents.input is not None:
        _write_transposed(engine, arithmetic, operands, geometry, options, tangents.input, result)
    elif not _any(along):
        arithmetic.fill_zero(result)
    if _any(along):
        g, grad_output = geometry.convolution, operands.input
        target = result if tangents.input is None else arithmetic.empty_like(result)
        convolution = _convolution(operands, arithmetic.blank(g.input_shape, operands.input))
        grads = DoubleGradients(input=target)
        engine.double_backward(convolution, g, options, grad_output, along, grads)
        if target is not result:
            arithmetic.add(result, target)
    if tangents.bias is not None:
        arithmetic.add_bias(result, tangents.bias)


def _double_backward(
    engine: Any,
    arithmetic: Any,
    operands: Operands,
    geometry: Any,
    options: Options,
    grad_output: Any,
    cotangents: Tangents,
    results: DoubleGradients,
) -> None:
    convolution, g = _convolution(operands, grad_output), geometry.convolution
    along = Tangents(offset=cotangents.offset, weight=cotangents.weight, mask=cotangents.mask)
    # The input of the convolution is this call's grad_output, and its grad_output is the input.
    wanted = results._replace(grad_output=results.input, input=results.grad_output)
    first = Gradients(wanted.input, wanted.offset, wanted.weight, None, wanted.mask)
    if cotangents.input is not None:
        engine.backward(convolution, g, options, cotangents.input, first)
    if _any(along):
        second = wanted
        if cotangents.input is not None:
            second = DoubleGradients(
                wanted.grad_output,
                *(a if a is None else arithmetic.empty_like(a) for a in wanted[1:]),
            )
        engine.double_backward(convolution, g, options, operands.input, along, second)
        if second is not wanted:
            for target, other in zip(wanted[1:], second[1:], strict=True):
                if target is not None:
                    arithmetic.add(target, other)
    else:
        for unwritten in wanted[:1] if cotangents.input is not None else wanted:
            if unwritten is not None:
                arithmetic.fill_zero(unwritten)
    if cotangents.bias is not None and results.grad_output is not None:
        arithmetic.add_bias(results.grad_output, cotangents.bias)


def _write_transposed(
    engine: Any,
    arithmetic: Any,
    operands: Operands,
    geometry: Any,
    options: Options,
    input: Any,
    output: Any,
) -> None:
    g = geometry.convolution
    convolution = _convolution(operands, arithmetic.blank(g.input_shape, input))
    engine.backward(convolution, g, options, input, Gradients(input=output))


def _convolution(operands: Operands, input: Any) -> Operands:
    """Operands of the convolution, without a bias, because no gradient depends on it."""
    return operands._replace(input=input, bias=None)


def _any(arrays: tuple[Any, ...]) -> bool:
    return any(array is not None for array in arrays)


ENGINE = ComposedEngine(
    forward=_forward, backward=_backward, jvp=_jvp, double_backward=_double_backward
)
