"""Loops over axes and corners, unrolled when a loop over samples is compiled.

The number of axes ``d`` is the length of a tuple, which the compiler knows; a sample has ``2**d``
corners. A *step* is an inlined function. Its first argument is the number of an axis or corner,
which is a constant after inlining:

    per_axis(axes, step, arguments)            (step(0, *arguments), step(1, *arguments), ...)
    per_corner(axes, step, arguments)
    over_axes(axes, step, value, arguments)    ... step(1, step(0, value, *arguments), *arguments)
    over_corners(axes, step, value, arguments)

``axes`` is any tuple with one item per axis. Corner ``c`` is a high corner along axis ``a`` if bit
``d - 1 - a`` of ``c`` is set: in two dimensions, the corners are top left, top right, bottom left,
bottom right.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError

from cudeform.cpu.loops.jit import inlined, instruction


def _step_signature(typing: Any, step: Any, *given: Any) -> Any:
    """Resolve the signature of a step for the types of its arguments."""
    return typing.resolve_function_type(step, (types.int64, *map(types.unliteral, given)), {})


def _cast_arguments(context: Any, builder: Any, called: Any, values: Any, kinds: Any) -> list[Any]:
    """Cast values to the types that a step takes after its number."""
    wanted = called.args[1:]
    return [
        context.cast(builder, value, kind, want)
        for value, kind, want in zip(values, kinds, wanted, strict=True)
    ]


def _per(count_of: Callable[[int], int]) -> Callable[..., Any]:
    def unroll(typing: Any, axes: Any, step: Any, arguments: Any) -> Any:
        count, called = count_of(len(axes)), _step_signature(typing, step, *arguments)

        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            call = context.get_function(step, called)
            unpacked = cgutils.unpack_tuple(builder, values[2])
            given = _cast_arguments(context, builder, called, unpacked, arguments)
            numbers = [context.get_constant(types.int64, number) for number in range(count)]
            results = [call(builder, [number, *given]) for number in numbers]
            return context.make_tuple(builder, signature.return_type, results)

        return types.UniTuple(called.return_type, count)(axes, step, arguments), generate

    return instruction(unroll)


def _over(count_of: Callable[[int], int]) -> Callable[..., Any]:
    def unroll(typing: Any, axes: Any, step: Any, value: Any, arguments: Any) -> Any:
        count, kind = count_of(len(axes)), types.unliteral(value)
        called = _step_signature(typing, step, kind, *arguments)
        if called.return_type != kind:
            raise TypingError(f"a step must return {kind}, its value, not {called.return_type}")

        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            call = context.get_function(step, called)
            unpacked = [values[2], *cgutils.unpack_tuple(builder, values[3])]
            result, *given = _cast_arguments(
                context, builder, called, unpacked, (value, *arguments)
            )
            for number in range(count):
                constant = context.get_constant(types.int64, number)
                result = call(builder, [constant, result, *given])
            return result

        return kind(axes, step, value, arguments), generate

    return instruction(unroll)


per_axis, over_axes = _per(lambda axes: axes), _over(lambda axes: axes)
per_corner, over_corners = _per(lambda axes: 2**axes), _over(lambda axes: 2**axes)


@instruction
def item(typing: Any, items: Any, number: Any) -> Any:
    """An item of a tuple whose number is a constant once all is inlined; no bounds are checked."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        items, number = arguments
        memory = cgutils.alloca_once_value(builder, items)
        return builder.load(builder.gep(memory, [number.type(0), number]))

    return items.dtype(items, number), generate


@instruction
def with_item(typing: Any, items: Any, number: Any, value: Any) -> Any:
    """A copy of a tuple with one item replaced."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        items, number, value = arguments
        memory = cgutils.alloca_once_value(builder, items)
        builder.store(value, builder.gep(memory, [number.type(0), number]))
        return builder.load(memory)

    return items(items, number, items.dtype), generate


@inlined
def corner_bit(axes: Any, axis: Any) -> Any:
    """The bit of a corner's number that is set if the corner is a high one along an axis."""
    return 1 << (len(axes) - 1 - axis)


@inlined
def all_corners(axes: Any) -> Any:
    """The set of all corners, one bit each."""
    return (1 << (1 << len(axes))) - 1


@inlined
def unravel_axis(step: Any, state: Any, sizes: Any) -> Any:
    """Split the index along the last remaining axis off a row-major index."""
    axis = len(sizes) - 1 - step
    indices, rest = state
    if axis == 0:
        return with_item(indices, 0, rest), rest
    quotient = rest // item(sizes, axis)
    return with_item(indices, axis, rest - quotient * item(sizes, axis)), quotient


@inlined
def unravel(index: Any, sizes: Any) -> Any:
    """Convert a row-major index to an index along each axis."""
    indices, _ = over_axes(sizes, unravel_axis, (sizes, index), (sizes,))
    return indices


@inlined
def next_axis(step: Any, state: Any, sizes: Any) -> Any:
    """Add the carry to the index along the last remaining axis."""
    axis = len(sizes) - 1 - step
    indices, carry = state
    index = item(indices, axis) + carry
    full = index == item(sizes, axis)
    return with_item(indices, axis, 0 if full else index), 1 if full else 0


@inlined
def next_index(indices: Any, sizes: Any) -> Any:
    """The indices, along each axis, of the next element in row-major order."""
    indices, _ = over_axes(sizes, next_axis, (indices, 1), (sizes,))
    return indices


@inlined
def same_for(number: Any, value: Any) -> Any:
    """A step that returns the same value for every axis or corner."""
    return value
