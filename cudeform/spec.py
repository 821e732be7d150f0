"""``Operator``: what adapters, checks and tests must know of an operator.

An operator reads arrays, its *operands*, and writes one array. Each operand has a role, from which
an adapter derives how ``vmap`` folds the operand, whether it is cut over devices, and how its
elements are counted. The engine names the operands of all operators as those of a convolution;
users have the usual names of each operator. Arguments, errors and results have users' names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol

from cudeform.arrays import DoubleGradients, Gradients, Operands, Tangents
from cudeform.checks import TANGENT, check_needs, check_tangents
from cudeform.geometry import Geometry
from cudeform.settings import Settings
from cudeform.sums.settings import AttentionSettings, DCNv3Settings, DCNv4Settings
from cudeform.sums.shapes import SumShapes
from cudeform.transposed.geometry import TransposedGeometry, TransposedSettings

# Roles of arrays. Images and arrays over positions have the batch as their first axis; filters and
# the bias have none.
IMAGES = "images"  # what samples are taken from, or added to
POSITIONS = "positions"  # one vector for each position
FILTERS = "filters"
BIAS = "bias"

AnyGeometry = Geometry | TransposedGeometry | SumShapes
AnySettings = Settings | TransposedSettings | AttentionSettings | DCNv3Settings | DCNv4Settings


class Operand(NamedTuple):
    """An array that an operator reads.

    Attributes:
        name: its name in the engine.
        role: one of the roles above.
        optional: whether it may be None.
        argument: its name as an argument; the empty string if it is ``name``.
        coordinates: whether it may be float32 beside an input in half precision.
    """

    name: str
    role: str
    optional: bool = False
    argument: str = ""
    coordinates: bool = False

    @property
    def public(self) -> str:
        """Its name as an argument."""
        return self.argument or self.name

    @property
    def is_parameter(self) -> bool:
        """Whether all images share the array."""
        return self.role in (FILTERS, BIAS)


class Engine(Protocol):
    """Four functions on plain buffers, and the workspace that one of them needs on a GPU."""

    @property
    def forward(self) -> Callable[..., None]: ...
    @property
    def backward(self) -> Callable[..., None]: ...
    @property
    def jvp(self) -> Callable[..., None]: ...
    @property
    def double_backward(self) -> Callable[..., None]: ...
    @property
    def workspace_bytes(self) -> Callable[..., int]: ...


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
        gradients, double_gradients: what users get, named tuples in the order of the operands.
        tangents: the types that users pass as tangents.
    """

    name: str
    axes: int
    operands: tuple[Operand, ...]
    output: str
    settings: type[AnySettings]
    geometry_type: type[AnyGeometry]
    sizes: Callable[[Operands, Any, int, bool], AnyGeometry]
    engine: Engine
    gradients: type[Any] = Gradients
    double_gradients: type[Any] = DoubleGradients
    tangents: tuple[type[Any], ...] = (Tangents, Gradients)

    def __post_init__(self) -> None:
        """Compute the cached properties: torch.compile cannot trace their lock in Python 3.11."""
        for name, value in vars(type(self)).items():
            if isinstance(value, cached_property):
                getattr(self, name)

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
    def names(self) -> tuple[str, ...]:
        """Names of the operands in the engine."""
        return tuple(operand.name for operand in self.operands)

    @cached_property
    def optional(self) -> tuple[str, ...]:
        """Names of the operands that may be None."""
        return tuple(operand.name for operand in self.operands if operand.optional)

    @cached_property
    def parameters(self) -> frozenset[str]:
        """Names of the operands that all images share."""
        return frozenset(operand.name for operand in self.operands if operand.is_parameter)

    @cached_property
    def differentiated(self) -> tuple[str, ...]:
        """Names of the operands that gradients depend on: all but the bias."""
        return tuple(operand.name for operand in self.operands if operand.role != BIAS)

    @cached_property
    def coordinates(self) -> frozenset[str]:
        """Users' names of the operands that may be float32 beside an input in half precision."""
        return frozenset(operand.public for operand in self.operands if operand.coordinates)

    @cached_property
    def coordinate_names(self) -> frozenset[str]:
        """The same operands by their names in the engine."""
        return frozenset(operand.name for operand in self.operands if operand.coordinates)

    @cached_property
    def public_names(self) -> dict[str, str]:
        """Users' names by those in the engine, of operands that have others."""
        return {each.name: each.public for each in self.operands if each.public != each.name}

    def role(self, name: str) -> str:
        """The role of an array by its name in the engine; a tangent has its operand's."""
        roles = {"grad_output": self.output} | {each.name: each.role for each in self.operands}
        return roles[name.removeprefix(TANGENT)]

    def present(self, operands: Operands) -> dict[str, Any]:
        """The operands by users' names, without optional ones that are None."""
        arrays = {}
        for operand in self.operands:
            array = getattr(operands, operand.name)
            if array is not None or not operand.optional:
                arrays[operand.argument or operand.name] = array
        return arrays

    def named(self, arrays: dict[str, Any]) -> dict[str, Any]:
        """Arrays by users' names; tangents are called "tangent of ..."."""
        if not self.public_names:
            return arrays
        return {self.public(name): array for name, array in arrays.items()}

    def public(self, name: str) -> str:
        """The name that users have for an operand, or for its tangent."""
        operand = name.removeprefix(TANGENT)
        prefix = TANGENT if operand != name else ""
        return prefix + self.public_names.get(operand, operand)

    def needed(
        self, needs: Sequence[str], results: type[Any], operands: Operands
    ) -> frozenset[str]:
        """The engine's names of gradients that users ask for, without those of absent operands.

        Args:
            needs: users' names.
            results: ``gradients`` or ``double_gradients``.
            operands: those of the call.

        Raises:
            TypeError: a string instead of a sequence of names.
            ValueError: a name that is no argument with a gradient.
        """
        absent = [name for name in self.optional if getattr(operands, name) is None]
        found = check_needs(needs, results._fields, absent)
        if not self.public_names:
            return found
        internal = {operand.public: operand.name for operand in self.operands}
        return frozenset(internal.get(name, name) for name in found)

    def directions(self, tangents: Any, operands: Operands) -> Tangents:
        """Users' tangents by the engine's names; see ``checks.check_tangents``."""
        arguments = {each.public: getattr(operands, each.name) for each in self.operands}
        check_tangents(tangents, self.tangents, arguments)
        if Tangents in self.tangents:
            return Tangents(*tangents)
        return Tangents(**dict(zip(self.names, tangents, strict=True)))

    def results(self, results: Gradients | DoubleGradients) -> Any:
        """The engine's gradients as users get them."""
        if self.gradients is Gradients:
            return results
        if isinstance(results, Gradients):
            return self.gradients(*[getattr(results, name) for name in self.names])
        found = [getattr(results, name) for name in self.names]
        return self.double_gradients(results.grad_output, *found)

    def fill(self, arrays: type[Any], given: Sequence[Any]) -> Any:
        """Arrays in the order of the operands, as the named tuple ``arrays``."""
        if len(given) == len(arrays._fields):
            return arrays(*given)
        return arrays(**dict(zip(self.names, given, strict=True)))
