"""What one call from JAX into the engine is: everything about it but the contents of its arrays.

A task is the static configuration of a primitive: it is hashed by JAX, so that equal calls share a
compilation, and written as text where the compiled program must carry it (``ffi.py``). The options
in force when JAX traces a call are part of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from math import prod
from typing import Any

from cudeform import engine
from cudeform.arrays import DoubleGradients, Gradients, Operands, Tangents
from cudeform.checks import GRADIENTS
from cudeform.geometry import Geometry
from cudeform.options import Options

TANGENT = "tangent_"  # tangent_input moves input; the cotangent of its gradient has the same name
OTHER = "other_"  # a second direction

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Task:
    """One call into the engine.

    Attributes:
        operation: ``forward``, ``jvp``, ``backward``, ``double_backward``, ``second_jvp``.
        geometry: sizes.
        options: the choices in force when the call was traced.
        dtype: name of the dtype of all arrays.
        inputs: names of the arrays that go in: operands, ``grad_output``, tangents.
        outputs: names of the arrays that come out: ``output``, or whose gradients they are.
        bridge: how XLA reaches Python, ``buffer`` or ``ffi``.
    """

    operation: str
    geometry: Geometry
    options: Options
    dtype: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    bridge: str

    def with_sizes(self, **sizes: int) -> Task:
        """The same task on arrays of other sizes."""
        return replace(self, geometry=replace(self.geometry, **sizes))


def base_of(name: str) -> str:
    """``weight`` for ``weight``, ``tangent_weight`` and ``other_weight``."""
    return name.removeprefix(TANGENT).removeprefix(OTHER)


def is_filter(name: str) -> bool:
    """Whether an array belongs to the filters, weight and bias; all others begin with the batch."""
    return base_of(name) in ("weight", "bias")


def shape_of(geometry: Geometry, name: str) -> Shape:
    """Shape of an array of a task."""
    base = base_of(name)
    if base == "bias":
        return (geometry.out_channels,)
    shape: Shape = getattr(geometry, f"{base.removeprefix('grad_')}_shape")
    return shape


@cache
def performer(task: Task) -> Callable[..., None]:
    """A function ``(arrays, results, device=None)`` that lets the engine write the results."""
    operands = _picked(task.inputs, GRADIENTS)
    tangents = _picked(task.inputs, [TANGENT + name for name in GRADIENTS])
    (grad_output,) = _picked(task.inputs, ["grad_output"])
    names = DoubleGradients._fields if task.operation == "double_backward" else GRADIENTS
    outputs = _picked(task.outputs, names)
    g, options = task.geometry, task.options

    def perform(arrays: Iterable[Any], results: Sequence[Any], device: Any = None) -> None:
        # None, which stands for what is absent, is found behind the last array.
        given = [*arrays, None]
        call = Operands(*[given[at] for at in operands]), g, options
        if task.operation == "forward":
            engine.forward(*call, results[0], device)
            return
        if task.operation == "jvp":
            moves = Tangents(*[given[at] for at in tangents])
            engine.jvp(*call, moves, results[0], device)
            return
        grads = [*results, None]
        if task.operation == "backward":
            wanted = Gradients(*[grads[at] for at in outputs])
            engine.backward(*call, given[grad_output], wanted, device)
            return
        moves = Tangents(*[given[at] for at in tangents])
        seconds = DoubleGradients(*[grads[at] for at in outputs])
        engine.double_backward(*call, given[grad_output], moves, seconds, device)

    return perform


def _picked(names: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Where each of the wanted names is; -1 where it is not."""
    return [names.index(name) if name in names else -1 for name in wanted]


def text_of(task: Task) -> str:
    """A task as text.

    Raises:
        TypeError: a size is a symbol, as ``jax.export`` makes them of shapes that vary.
    """
    try:
        return json.dumps(asdict(task))
    except TypeError as error:
        raise TypeError(
            "deform_conv2d needs sizes that are numbers; export it once for each shape"
        ) from error


@cache
def task_of(text: bytes) -> Task:
    """The task that was written as text."""
    fields = json.loads(text)
    return Task(
        **fields
        | {
            "geometry": Geometry(**fields["geometry"]),
            "options": Options(**fields["options"]),
            "inputs": tuple(fields["inputs"]),
            "outputs": tuple(fields["outputs"]),
        }
    )


@cache
def shapes_of(task: Task) -> tuple[tuple[Shape, ...], tuple[Shape, ...]]:
    """Shapes of the arrays that go in and of those that come out."""
    inputs = tuple(shape_of(task.geometry, name) for name in task.inputs)
    return inputs, tuple(shape_of(task.geometry, name) for name in task.outputs)


def contiguous(shape: Shape) -> Shape:
    """Strides of a contiguous array, in elements."""
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))
