"""The description of a call from JAX into the engine, and how its arrays reach the engine.

A ``CallSpec`` describes a call completely, except for the contents of its arrays. It includes the
options in force when JAX traces the call. It is the static parameter of the primitives: JAX hashes
it, so equal calls share a compilation. A compiled program can contain it as text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any, Literal, NamedTuple

from cudeform.arrays import DoubleGradients, Gradients, Operands, Tangents
from cudeform.family import OPERATORS
from cudeform.options import Options
from cudeform.spec import AnyGeometry, Operator

OPERANDS = Tangents._fields

Shape = tuple[int, ...]
Role = Literal["primal", "tangent", "second_tangent"]


class Argument(NamedTuple):
    """An input array of a call.

    Attributes:
        role: ``primal`` for an operand or ``grad_output`` itself, ``tangent`` for a tangent of it,
            ``second_tangent`` for a tangent along a second direction. A ``tangent`` of an operand
            that goes into ``double_backward`` may as well be the cotangent of its gradient.
        name: the operand, or ``grad_output``.
    """

    role: Role
    name: str


GRAD_OUTPUT = Argument("primal", "grad_output")
GRAD_OUTPUT_TANGENT = Argument("tangent", "grad_output")

Arguments = Mapping[Argument, Any]


def select(role: Role, arguments: Arguments) -> dict[str, Any]:
    """The arguments of one role, by name of the operand."""
    named = ((name, Argument(role, name)) for name in OPERANDS)
    return {name: arguments[key] for name, key in named if key in arguments}


def with_role(role: Role, arrays: Mapping[str, Any]) -> dict[Argument, Any]:
    """Convert arrays by name of the operand to arguments of one role."""
    return {Argument(role, name): array for name, array in arrays.items()}


@dataclass(frozen=True)
class CallSpec:
    """One call into the engine.

    Attributes:
        operator: name of the operator.
        operation: ``forward``, ``jvp``, ``backward``, ``double_backward``, ``second_jvp``.
        geometry: sizes of the call.
        options: the options in force when the call was traced.
        dtype: name of the dtype of the input, and of all arrays that are no coordinates.
        coordinates_dtype: name of the dtype of the operands that may be float32 beside an input in
            half precision, and of their tangents and gradients.
        inputs: the input arrays, in order.
        outputs: the names of the results, in order: ``output``, or for a gradient the name of its
            operand.
        bridge: how XLA calls Python, ``buffer`` or ``ffi``.
    """

    operator: str
    operation: str
    geometry: AnyGeometry
    options: Options
    dtype: str
    coordinates_dtype: str
    inputs: tuple[Argument, ...]
    outputs: tuple[str, ...]
    bridge: str

    @property
    def entry(self) -> Operator:
        """The operator in the table."""
        return OPERATORS[self.operator]

    def with_batch(self, batch: int) -> CallSpec:
        """This call with another number of images."""
        return replace(self, geometry=self.geometry.with_batch(batch))

    def of_examples(self, count: int) -> CallSpec:
        """``count`` such calls merged into one, each with its own filters, channels and groups."""
        geometry: Any = self.geometry
        return replace(self, geometry=geometry.of_examples(count))

    def is_parameter(self, name: str) -> bool:
        """Whether all images share an operand; any other one has the batch as its first axis."""
        return name in self.entry.parameters

    def input_index(self) -> int:
        """Index of the operand ``input`` among the input arrays."""
        return self.inputs.index(Argument("primal", "input"))

    def input_shapes(self) -> list[Shape]:
        """Shapes of the input arrays."""
        return [_shape_of(argument.name, self.geometry) for argument in self.inputs]

    def output_shapes(self) -> list[Shape]:
        """Shapes of the results."""
        return [_shape_of(name, self.geometry) for name in self.outputs]

    def dtype_of(self, name: str) -> str:
        """Name of the dtype of an operand, its tangent and its gradient, or of the output."""
        return self.coordinates_dtype if name in self.entry.coordinate_names else self.dtype

    def input_dtypes(self) -> list[str]:
        """Names of the dtypes of the input arrays."""
        return [self.dtype_of(argument.name) for argument in self.inputs]

    def output_dtypes(self) -> list[str]:
        """Names of the dtypes of the results."""
        return [self.dtype_of(name) for name in self.outputs]

    def to_text(self) -> str:
        """The spec as JSON.

        Raises:
            TypeError: a size is symbolic, as ``jax.export`` makes it for a variable dimension.
        """
        try:
            return json.dumps(asdict(self))
        except TypeError as error:
            raise TypeError(
                f"{self.operator} needs sizes that are numbers; export it once for each shape"
            ) from error

    @classmethod
    def from_text(cls, text: bytes) -> CallSpec:
        """The inverse of :meth:`to_text`."""
        fields = json.loads(text)
        parsed = {
            "geometry": OPERATORS[fields["operator"]].geometry_type.of_fields(fields["geometry"]),
            "options": Options(**fields["options"]),
            "inputs": tuple(Argument(*each) for each in fields["inputs"]),
            "outputs": tuple(fields["outputs"]),
        }
        return cls(**fields | parsed)


def _shape_of(name: str, geometry: AnyGeometry) -> Shape:
    shape: Shape = getattr(geometry, f"{name.removeprefix('grad_')}_shape")
    return shape


class EngineCall:
    """The engine's function for a spec, on arrays in the order of the spec.

    One object is made per spec, so a call only selects its arrays by index.
    """

    def __init__(self, spec: CallSpec) -> None:
        """Compute the index of each argument of the engine's function among the arrays."""
        self.spec = spec
        self.input_shapes, self.output_shapes = spec.input_shapes(), spec.output_shapes()
        self.input_dtypes, self.output_dtypes = spec.input_dtypes(), spec.output_dtypes()
        self._pack = _packer(spec)

    def run(self, inputs: Sequence[Any], outputs: Sequence[Any], device: Any = None) -> None:
        """Write the outputs, on the CPU or on a GPU."""
        getattr(self.spec.entry.engine, self.spec.operation)(*self._pack(inputs, outputs), device)

    def workspace_bytes(self, inputs: Sequence[Any], outputs: Sequence[Any], device: Any) -> int:
        """Bytes of workspace that :meth:`run` allocates on a GPU, as one block."""
        engine = self.spec.entry.engine
        function = getattr(engine, self.spec.operation)
        return engine.workspace_bytes(function, *self._pack(inputs, outputs), device=device)


engine_call = cache(EngineCall)


def _packer(spec: CallSpec) -> Callable[[Sequence[Any], Sequence[Any]], tuple[Any, ...]]:
    """A function that makes the arguments of the engine's function from inputs and outputs."""
    operands, tangents = (
        _indices([Argument(role, name) for name in OPERANDS], spec.inputs)
        for role in ("primal", "tangent")
    )
    (grad_output,) = _indices([GRAD_OUTPUT], spec.inputs)
    results_type = DoubleGradients if spec.operation == "double_backward" else Gradients
    results = _indices(results_type._fields, spec.outputs)
    geometry, options, operation = spec.geometry, spec.options, spec.operation

    def pack(inputs: Sequence[Any], outputs: Sequence[Any]) -> tuple[Any, ...]:
        given, written = (
            [*inputs, None],
            [*outputs, None],
        )  # an absent array has index -1, which selects None
        call = Operands(*[given[at] for at in operands]), geometry, options
        if operation == "forward":
            return *call, written[0]
        if operation == "jvp":
            return *call, Tangents(*[given[at] for at in tangents]), written[0]
        grads = results_type(*[written[at] for at in results])
        if operation == "backward":
            return *call, given[grad_output], grads
        cotangents = Tangents(*[given[at] for at in tangents])
        return *call, given[grad_output], cotangents, grads

    return pack


def _indices(wanted: Sequence[Any], keys: Sequence[Any]) -> list[int]:
    return [keys.index(key) if key in keys else -1 for key in wanted]
