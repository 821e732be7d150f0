"""Base classes of adapters: the checks of a call, and the call of the engine.

``CheckedAdapter`` checks a call and computes its geometry, for all libraries whose arrays have a
shape, a dtype and a device. ``ArrayAdapter`` is the common part of NumPy and CuPy: it allocates the
results, describes all arrays to the engine, and runs it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from cudeform.arrays import DoubleGradients, Gradients, Operands, Tangents
from cudeform.checks import check_devices, check_dtypes
from cudeform.options import current
from cudeform.spec import Operator

if TYPE_CHECKING:
    from cudeform.gpu.device_api.protocol import Executor


class CheckedAdapter(ABC):
    """An adapter that checks a call, then passes it with its geometry to a ``run_*`` method."""

    @abstractmethod
    def dtype_name(self, array: Any) -> str:
        """Name of an array's dtype, such as "float32"."""

    @abstractmethod
    def device_of(self, array: Any) -> Any:
        """An array's device, as any value that compares equal for equal devices."""

    @abstractmethod
    def run_forward(self, operator: Operator, operands: Operands, geometry: Any) -> Any:
        """The output."""

    @abstractmethod
    def run_backward(
        self,
        operator: Operator,
        operands: Operands,
        geometry: Any,
        grad_output: Any,
        needs: frozenset[str],
    ) -> Gradients:
        """The gradients named in ``needs``."""

    @abstractmethod
    def run_jvp(
        self, operator: Operator, operands: Operands, geometry: Any, tangents: Tangents
    ) -> Any:
        """The tangent of the output."""

    @abstractmethod
    def run_double_backward(
        self,
        operator: Operator,
        operands: Operands,
        geometry: Any,
        grad_output: Any,
        cotangents: Tangents,
        needs: frozenset[str],
    ) -> DoubleGradients:
        """The gradients of the gradients named in ``needs``."""

    def forward(self, operator: Operator, operands: Operands, settings: Any) -> Any:
        """Check the call and run it."""
        return self.run_forward(operator, operands, self._checked(operator, operands, settings, {}))

    def backward(
        self,
        operator: Operator,
        operands: Operands,
        settings: Any,
        grad_output: Any,
        needs: frozenset[str],
    ) -> Gradients:
        """Check the call and run it."""
        geometry = self._checked(operator, operands, settings, {"grad_output": grad_output})
        geometry.check_grad_output(grad_output.shape)
        return self.run_backward(operator, operands, geometry, grad_output, needs)

    def jvp(self, operator: Operator, operands: Operands, settings: Any, tangents: Tangents) -> Any:
        """Check the call and run it."""
        geometry = self._checked(operator, operands, settings, tangents.present())
        return self.run_jvp(operator, operands, geometry, tangents)

    def double_backward(
        self,
        operator: Operator,
        operands: Operands,
        settings: Any,
        grad_output: Any,
        cotangents: Tangents,
        needs: frozenset[str],
    ) -> DoubleGradients:
        """Check the call and run it."""
        others = cotangents.present() | {"grad_output": grad_output}
        geometry = self._checked(operator, operands, settings, others)
        geometry.check_grad_output(grad_output.shape)
        return self.run_double_backward(
            operator, operands, geometry, grad_output, cotangents, needs
        )

    def _checked(
        self, operator: Operator, operands: Operands, settings: Any, others: Mapping[str, Any]
    ) -> Any:
        """Check that all arrays, ``others`` included, fit together; return the geometry."""
        arrays = operator.named(operands.present() | dict(others))
        dtypes = {name: self.dtype_name(array) for name, array in arrays.items()}
        check_dtypes(dtypes, operator.coordinates)
        check_devices({name: self.device_of(array) for name, array in arrays.items()})
        shapes = [None if array is None else array.shape for array in operands]
        return operator.geometry(Operands(*shapes), settings)


_NO_CONTEXT = nullcontext()


class ArrayAdapter(CheckedAdapter):
    """An adapter for arrays whose memory the engine reads and writes directly."""

    @abstractmethod
    def empty(self, shape: tuple[int, ...], like: Any) -> Any:
        """A new array of the dtype of ``like``, on the current device."""

    @abstractmethod
    def describe(self, array: Any) -> Any:
        """The description of an array that the engine takes."""

    def device_context(self, array: Any) -> AbstractContextManager[Any]:
        """A context in which the device of ``array`` is the current one."""
        return _NO_CONTEXT

    def executor(self, array: Any) -> Executor | None:
        """The GPU that ``array`` is on, with the caller's current stream; None on the CPU."""
        return None

    def run_forward(self, operator: Operator, operands: Operands, geometry: Any) -> Any:
        """The output."""
        with self.device_context(operands.input):
            output = self.empty(geometry.output_shape, operands.input)
            operator.engine.forward(
                self._described(operands),
                geometry,
                current(),
                self.describe(output),
                self.executor(operands.input),
            )
        return output

    def run_backward(
        self,
        operator: Operator,
        operands: Operands,
        geometry: Any,
        grad_output: Any,
        needs: frozenset[str],
    ) -> Gradients:
        """The gradients named in ``needs``."""
        with self.device_context(operands.input):
            grads = Gradients(**self._empty_like(operands.present(), needs))
            operator.engine.backward(
                self._described(operands),
                geometry,
                current(),
                self.describe(grad_output),
                Gradients(*self._each(grads)),
                self.executor(operands.input),
            )
        return grads

    def run_jvp(
        self, operator: Operator, operands: Operands, geometry: Any, tangents: Tangents
    ) -> Any:
        """The tangent of the output."""
        with self.device_context(operands.input):
            output_tangent = self.empty(geometry.output_shape, operands.input)
            operator.engine.jvp(
                self._described(operands),
                geometry,
                current(),
                Tangents(*self._each(tangents)),
                self.describe(output_tangent),
                self.executor(operands.input),
            )
        return output_tangent

    def run_double_backward(
        self,
        operator: Operator,
        operands: Operands,
        geometry: Any,
        grad_output: Any,
        cotangents: Tangents,
        needs: frozenset[str],
    ) -> DoubleGradients:
        """The gradients of the gradients named in ``needs``."""
        with self.device_context(operands.input):
            arrays = operands.present() | {"grad_output": grad_output}
            results = DoubleGradients(**self._empty_like(arrays, needs))
            operator.engine.double_backward(
                self._described(operands),
                geometry,
                current(),
                self.describe(grad_output),
                Tangents(*self._each(cotangents)),
                DoubleGradients(*self._each(results)),
                self.executor(operands.input),
            )
        return results

    def _empty_like(self, arrays: Mapping[str, Any], needs: frozenset[str]) -> dict[str, Any]:
        return {
            name: self.empty(array.shape, array) for name, array in arrays.items() if name in needs
        }

    def _described(self, operands: Operands) -> Operands:
        return Operands(*self._each(operands))

    def _each(self, arrays: tuple[Any, ...]) -> list[Any]:
        return [None if array is None else self.describe(array) for array in arrays]
