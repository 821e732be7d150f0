"""One operation of a call: run on eager tensors, or added to a graph as a node.

Tensors and results have names: those of the operands, ``grad_output``, and ``tangent of ...`` for
tangents and, in the double backward, for cotangents of gradients. A gradient has the name of its
tensor. ``output`` is the output or its tangent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from cudeform.arrays import DoubleGradients, Gradients, Operands, Tangents
from cudeform.checks import check_devices, check_dtypes
from cudeform.options import Options
from cudeform.spec import POSITIONS, AnyGeometry, AnySettings, Engine, Operator

from .layout import Layout
from .memory import Shape, device_of, memory_of
from .private import compiled_by_xla, has_tangents
from .sizes import merged, traced_shape

Tensors = Mapping[str, Any]

OPERANDS = Operands._fields
TANGENT = "tangent of "
TANGENTS = {f"{TANGENT}{name}": name for name in OPERANDS}


@dataclass(frozen=True)
class Call:
    """A call without its tensors and its operation.

    Attributes:
        operator: the entry of the operator in the table.
        settings: settings of the call.
        options: the options in force when the call was made or traced.
        layout: the order of the axes of the tensors.
    """

    operator: Operator
    settings: AnySettings
    options: Options
    layout: Layout

    def run(self, operation: str, tensors: Tensors, results: Sequence[str]) -> list[Any]:
        """Compute, or trace, the results; return tensors in the order of ``results``.

        Args:
            operation: forward, jvp, backward or double_backward.
            tensors: the tensors by name, eager or symbolic.
            results: names of the results.

        Raises:
            TypeError, ValueError: the tensors do not fit together, as far as their sizes are known.
            NotImplementedError: XLA compiles the traced function, or a ForwardAccumulator
                differentiates it.
        """
        named = self.operator.named({**tensors})
        dtypes = {name: tensor.dtype.name for name, tensor in named.items()}
        check_dtypes(dtypes, self.operator.coordinates)
        if not results:
            return []
        if tf.executing_eagerly():
            return self._compute(operation, tensors, results)
        return self._trace(operation, tensors, results)

    def _compute(self, operation: str, tensors: Tensors, results: Sequence[str]) -> list[Any]:
        """Compute the results of eager tensors."""
        named = self.operator.named({**tensors})
        check_devices({name: device_of(tensor) for name, tensor in named.items()})
        memory = memory_of(tensors["input"])
        with memory.selected():
            arrays = {
                name: self.layout.to_engine(name, memory.borrow(tensor))
                for name, tensor in tensors.items()
            }
            geometry = self._geometry({name: array.shape for name, array in arrays.items()})
            written, lent = {}, []
            for name in results:
                shape = geometry.output_shape if name == "output" else arrays[name].shape
                array, handle = memory.empty(
                    self.layout.outside(name, shape), _like(name, tensors).dtype
                )
                written[name] = memory.describe(self.layout.to_engine(name, array))
                lent.append(handle)
            read = {name: memory.describe(array) for name, array in arrays.items()}
            _run_engine(
                self.operator.engine,
                operation,
                geometry,
                self.options,
                read,
                written,
                memory.executor,
            )
            memory.finish()
        return [memory.lend(handle) for handle in lent]

    def _trace(self, operation: str, tensors: Tensors, results: Sequence[str]) -> list[Any]:
        """Add a node to the graph that computes the results when the graph runs."""
        _refuse_what_a_node_cannot(self.operator, tensors)
        output_shape = self._checked_output_shape(tensors)
        names = tuple(tensors)

        def body(*values: Any) -> list[Any]:
            return self._compute(operation, dict(zip(names, values, strict=True)), results)

        dtypes = [_like(name, tensors).dtype for name in results]
        nodes: list[Any] = tf.py_function(body, list(tensors.values()), dtypes)
        for name, node in zip(results, nodes, strict=True):
            node.set_shape(output_shape if name == "output" else tensors[name].shape)
        return nodes

    def _checked_output_shape(self, tensors: Tensors) -> tf.TensorShape:
        """Check the known sizes; return the known part of the output's shape."""
        if any(tensor.shape.rank is None for tensor in tensors.values()):
            return tf.TensorShape(None)
        shapes = {
            name: self.layout.inside(name, traced_shape(tensor.shape))
            for name, tensor in tensors.items()
        }
        shape = self._geometry(shapes, traced=True).output_shape
        if not self.operator.parameters:  # the sizes follow from known ones alone
            return tf.TensorShape(merged(shape, shape))
        by_offset = shapes["offset"]
        out = by_offset[2:] if self.operator.output == POSITIONS else shape[2:]
        known = merged(shape, (by_offset[0], shape[1], *out))
        return tf.TensorShape(self.layout.outside("output", tuple(known)))

    def _geometry(self, shapes: Mapping[str, Shape], traced: bool = False) -> AnyGeometry:
        """The geometry of a call, from shapes in the engine's axis order."""
        try:
            operands = Operands(*map(shapes.get, OPERANDS))
            geometry = self.operator.geometry(operands, self.settings, traced=traced)
            if "grad_output" in shapes:
                geometry.check_grad_output(shapes["grad_output"])
        except ValueError as error:
            raise ValueError(f"{error}{self.layout.remark}") from error
        return geometry


def _like(name: str, tensors: Tensors) -> Any:
    """The tensor whose dtype a result has."""
    return tensors["input" if name == "output" else name]


def _refuse_what_a_node_cannot(operator: Operator, tensors: Tensors) -> None:
    if compiled_by_xla():
        raise NotImplementedError(
            f"{operator.name} cannot be compiled by XLA in TensorFlow: use tf.function without "
            "jit_compile, or compile the parts around it"
        )
    if has_tangents(tensors):
        # TensorFlow would treat the node as a constant, and return a zero tangent.
        raise NotImplementedError(
            f"forward-mode differentiation of {operator.name} works only outside of tf.function"
        )


def _run_engine(
    engine: Engine,
    operation: str,
    geometry: AnyGeometry,
    options: Options,
    read: Mapping[str, Any],
    written: Mapping[str, Any],
    device: Any,
) -> None:
    """Call the engine on arrays by name."""
    operands = Operands(**{name: read[name] for name in OPERANDS if name in read})
    tangents = Tangents(**{of: read[name] for name, of in TANGENTS.items() if name in read})
    call = operands, geometry, options
    if operation == "forward":
        engine.forward(*call, written["output"], device)
    elif operation == "jvp":
        engine.jvp(*call, tangents, written["output"], device)
    elif operation == "backward":
        engine.backward(*call, read["grad_output"], Gradients(**written), device)
    else:
        results = DoubleGradients(**written)
        engine.double_backward(*call, read["grad_output"], tangents, results, device)
