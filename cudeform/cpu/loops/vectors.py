"""Pointers and vectors of VECTOR elements for the loops, as LLVM instructions.

A loop converts its arrays to pointers, because Numba counts references to an array in every
function that takes one, which would cost more than the work on a sample. Vectors are written as
LLVM instructions, so they do not depend on LLVM's vectoriser. Their names are those of
``kernels/common/vector.cuh``. With ``count`` below VECTOR, only ``count`` elements of memory are
accessed; if it is the constant VECTOR, the count has no cost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from cudeform.cpu.loops.jit import inlined, instruction

VECTOR = 8

INDEX = ir.IntType(32)


class VectorType(types.Type):  # type: ignore[misc]
    """Numba's type of a vector: VECTOR numbers of a dtype."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        super().__init__(f"Vector({dtype})")


@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: VectorType) -> None:
        element = manager.lookup(kind.dtype).get_data_type()
        super().__init__(manager, kind, ir.VectorType(element, VECTOR))


def _literal_instruction(function: Callable[..., Any]) -> Callable[..., Any]:
    made: Callable[..., Any] = intrinsic(prefer_literal=True)(function)
    return made


def _splat(builder: Any, value: Any) -> Any:
    """A vector with the same value in all lanes."""
    kind = ir.VectorType(value.type, VECTOR)
    nothing = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(nothing, value, ir.Constant(INDEX, 0))
    zeros = ir.Constant(ir.VectorType(INDEX, VECTOR), [0] * VECTOR)
    return builder.shuffle_vector(first, nothing, zeros)


def _lanes_below(builder: Any, count: Any) -> Any:
    lanes = ir.Constant(ir.VectorType(count.type, VECTOR), list(range(VECTOR)))
    return builder.icmp_signed("<", lanes, _splat(builder, count))


def vector_address(builder: Any, pointer: Any, index: Any, vector: Any) -> Any:
    """The address of an element, as a pointer to a vector."""
    return builder.bitcast(builder.gep(pointer, [index]), vector.as_pointer())


def _call(builder: Any, name: str, vector: Any, result: Any, arguments: list[Any]) -> Any:
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    width = 64 if isinstance(vector.element, ir.DoubleType) else 32
    full = name.format(f"v{VECTOR}f{width}")
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, full), arguments)


def _add_halves(builder: Any, a: Any, b: Any, group: int) -> Any:
    """Add the upper half of each group of lanes, in two vectors or one, to the lower half."""
    nothing = ir.Constant(a.type, ir.Undefined)
    lanes = range(a.type.count * (1 if b is None else 2))
    halves = (
        [lane for lane in lanes if (lane % group < group // 2) == lower] for lower in (True, False)
    )
    low, high = (
        builder.shuffle_vector(
            a,
            nothing if b is None else b,
            ir.Constant(ir.VectorType(INDEX, len(half)), half),
        )
        for half in halves
    )
    return builder.fadd(low, high)


def _multiply_add(builder: Any, a: Any, b: Any, total: Any) -> Any:
    return _call(builder, "llvm.fmuladd.{}", a.type, a.type, [a, b, total])


@instruction
def pointer_to(typing: Any, array: Any) -> Any:
    """Pointer to the first element of an array; the array must outlive the pointer."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return context.make_array(signature.args[0])(context, builder, arguments[0]).data

    return types.CPointer(array.dtype)(array), generate


@_literal_instruction
def local_array(typing: Any, count: Any, value: Any) -> Any:
    """Pointer to memory on the stack: a constant number of elements of the type of ``value``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = context.get_data_type(types.unliteral(value))
        memory = cgutils.alloca_once(builder, ir.ArrayType(kind, count.literal_value))
        return builder.bitcast(memory, kind.as_pointer())

    return types.CPointer(types.unliteral(value))(count, value), generate


@instruction
def load_vector(typing: Any, pointer: Any, index: Any, count: Any) -> Any:
    """Load ``count`` elements from ``index`` on; the other lanes are 0."""
    kind = VectorType(pointer.dtype)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector = context.get_data_type(kind)
        pointer, index, count = arguments
        given = [
            vector_address(builder, pointer, index, vector),
            ir.Constant(INDEX, kind.dtype.bitwidth // 8),
            _lanes_below(builder, count),
            ir.Constant(vector, [0.0] * VECTOR),
        ]
        return _call(builder, "llvm.masked.load.{}.p0", vector, vector, given)

    return kind(pointer, types.int64, types.int64), generate


def _store_part(builder: Any, pointer: Any, index: Any, count: Any, lanes: Any, size: int) -> None:
    """Store fewer than VECTOR lanes, as parts of four, two and one lanes.

    A masked store would be slow on some processors.
    """
    memory = cgutils.alloca_once_value(builder, lanes)
    first_lane = builder.bitcast(memory, pointer.type)
    part = VECTOR // 2
    while part:
        bit = builder.and_(count, ir.Constant(count.type, part))
        with builder.if_then(builder.icmp_signed("!=", bit, ir.Constant(bit.type, 0))):
            before = builder.and_(count, ir.Constant(count.type, VECTOR - 2 * part))
            kind = ir.VectorType(lanes.type.element, part)
            some = builder.load(vector_address(builder, first_lane, before, kind), align=size)
            to = vector_address(builder, pointer, builder.add(index, before), kind)
            builder.store(some, to, align=size)
        part //= 2


@instruction
def store_vector(typing: Any, pointer: Any, index: Any, count: Any, value: Any) -> Any:
    """Store the first ``count`` lanes from ``index`` on."""
    size = value.dtype.bitwidth // 8

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer, index, count, lanes = arguments
        whole = builder.icmp_signed("==", count, ir.Constant(count.type, VECTOR))
        with builder.if_else(whole) as (then, otherwise):
            with then:
                builder.store(
                    lanes, vector_address(builder, pointer, index, lanes.type), align=size
                )
            with otherwise:
                _store_part(builder, pointer, index, count, lanes, size)
        return context.get_dummy_value()

    return types.void(pointer, types.int64, types.int64, value), generate


@instruction
def splat(typing: Any, value: Any) -> Any:
    """A vector with the same value in all lanes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _splat(builder, arguments[0])

    return VectorType(value)(value), generate


@instruction
def scalar_like(typing: Any, pointer: Any, value: Any) -> Any:
    """Convert a value to the element type of a pointer."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return context.cast(builder, arguments[1], signature.args[1], pointer.dtype)

    return pointer.dtype(pointer, value), generate


@instruction
def scaled(typing: Any, factor: Any, value: Any) -> Any:
    """``factor * value``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fmul(_splat(builder, arguments[0]), arguments[1])

    return value(value.dtype, value), generate


@instruction
def add_scaled(typing: Any, total: Any, factor: Any, value: Any) -> Any:
    """``total + factor * value``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        sum_, factor_, value_ = arguments
        return _multiply_add(builder, _splat(builder, factor_), value_, sum_)

    return value(value, value.dtype, value), generate


@instruction
def add_product(typing: Any, total: Any, a: Any, b: Any) -> Any:
    """``total + a * b``, lane by lane."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _multiply_add(builder, arguments[1], arguments[2], arguments[0])

    return a(a, a, a), generate


@instruction
def add(typing: Any, a: Any, b: Any) -> Any:
    """``a + b``, lane by lane."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fadd(*arguments)

    return a(a, a), generate


@instruction
def store_lane_sums(typing: Any, pointer_type: Any, index: Any, vectors: Any) -> Any:
    """Sum the lanes of each of two, four or eight vectors, and store the sums contiguously.

    The order of each sum is fixed.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer, index, packed = arguments
        group, left = VECTOR, cgutils.unpack_tuple(builder, packed)
        while len(left) > 1:
            pairs = zip(left[::2], left[1::2], strict=True)
            left = [_add_halves(builder, a, b, group) for a, b in pairs]
            group //= 2
        [sums] = left
        while group > 1:
            sums = _add_halves(builder, sums, None, group)
            group //= 2
        address = vector_address(builder, pointer, index, sums.type)
        builder.store(sums, address, align=pointer_type.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(pointer_type, types.int64, vectors), generate


@inlined
def load_vector_if(flag: Any, pointer: Any, index: Any, count: Any) -> Any:
    """As :func:`load_vector` if ``flag`` is not 0, else zeros without an access."""
    if flag:
        return load_vector(pointer, index, count)
    return splat(scalar_like(pointer, 0))
