"""The table of operators: what adapters, checks and tests must know of each.

An operator reads arrays, its *operands*, and writes one array. Each operand has a role, from which
an adapter derives how the operand is folded by ``vmap``, cut over devices or counted. The engine
has the same names for the operands of all operators.

The public functions with their argument lists are in ``operators/``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol

from cudeform import engine, transposed
from cudeform.arrays import Operands
from cudeform.geometry import Geometry, convolution_geometry
from cudeform.settings import Settings
from cudeform.transposed_geometry import (
    TransposedGeometry,
    TransposedSettings,
    transposed_geometry,
)

# Roles of arrays. Images and arrays over positions have the batch as their first axis; filters and
# the bias have none.
IMAGES = "images"  # what samples are taken from, or added to
POSITIONS = "positions"  # one vector for each position
FILTERS = "filters"
BIAS = "bias"

AnyGeometry = Geometry | TransposedGeometry
AnySettings = Settings | TransposedSettings


class Operand(NamedTuple):
    """An array that an operator reads, by its name as an argument and in the engine."""

    name: str
    role: str
    optional: bool = False

    @property
    def is_parameter(self) -> bool:
        """Whether all images share the array."""
        return self.role in (FILTERS, BIAS)


class Engine(Protocol):
    """Four functions on plain buffers, and the workspace that one of them needs on a GPU."""

    forward: Callable[..., None]
    backward: Callable[..., None]
    jvp: Callable[..., None]
    double_backward: Callable[..., None]
    workspace_bytes: Callable[..., int]


@dataclass(frozen=True, eq=False)
class Operator:
    """One operator.

    Attributes:
        name: of the public function.
        axes: number of spatial axes.
        operands: in the order of ``Operands``.
        output: role of the output.
        settings: type of the arguments that are no arrays.
        geometry_type: type of the sizes of a call.
        sizes: makes the sizes of a call, see :meth:`geometry`.
        engine: computes it.
    """

    name: str
    axes: int
    operands: tuple[Operand, ...]
    output: str
    settings: type[AnySettings]
    geometry_type: type[AnyGeometry]
    sizes: Callable[[Operands, Any, int, bool], AnyGeometry]
    engine: Engine

    def geometry(self, shapes: Operands, settings: Any, *, traced: bool = False) -> AnyGeometry:
        """The sizes of a call.

        Args:
            shapes: those of the operands, None for an operand that is absent.
            settings: those of the call.
            traced: whether sizes may be symbols of a compiler, which have no hash for a cache.

        Raises:
            TypeError: settings of a wrong type.
            ValueError: an impossible shape or size.
        """
        return self.sizes(shapes, settings, self.axes, traced)

    @cached_property
    def optional(self) -> tuple[str, ...]:
        """Names of the operands that may be None."""
        return tuple(operand.name for operand in self.operands if operand.optional)

    @cached_property
    def parameters(self) -> frozenset[str]:
        """Names of the operands that all images share."""
        return frozenset(operand.name for operand in self.operands if operand.is_parameter)


def _operands(input: str) -> tuple[Operand, ...]:
    return (
        Operand("input", input),
        Operand("offset", POSITIONS),
        Operand("weight", FILTERS),
        Operand("bias", BIAS, optional=True),
        Operand("mask", POSITIONS, optional=True),
    )


def _convolution(axes: int) -> Operator:
    return Operator(
        name=f"deform_conv{axes}d",
        axes=axes,
        operands=_operands(IMAGES),
        output=POSITIONS,
        settings=Settings,
        geometry_type=Geometry,
        sizes=convolution_geometry,
        engine=engine,
    )


def _transposed(axes: int) -> Operator:
    return Operator(
        name=f"deform_conv_transpose{axes}d",
        axes=axes,
        operands=_operands(POSITIONS),
        output=IMAGES,
        settings=TransposedSettings,
        geometry_type=TransposedGeometry,
        sizes=transposed_geometry,
        engine=transposed,
    )


DEFORM_CONV1D, DEFORM_CONV2D, DEFORM_CONV3D = map(_convolution, (1, 2, 3))
DEFORM_CONV_TRANSPOSE1D, DEFORM_CONV_TRANSPOSE2D, DEFORM_CONV_TRANSPOSE3D = map(
    _transposed, (1, 2, 3)
)

OPERATORS = {
    operator.name: operator
    for operator in (
        DEFORM_CONV1D,
        DEFORM_CONV2D,
        DEFORM_CONV3D,
        DEFORM_CONV_TRANSPOSE1D,
        DEFORM_CONV_TRANSPOSE2D,
        DEFORM_CONV_TRANSPOSE3D,
    )
}
