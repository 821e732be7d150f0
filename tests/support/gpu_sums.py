"""What the GPU engine makes of sums of samples in their canonical form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from support.canonical_sums import (
    OPERANDS,
    RESULTS,
    Array,
    Arrays,
    CanonicalSum,
    output_shape,
)
from support.gpu_engine import TestDevice

from cudeform import gpu
from cudeform.arrays import DeviceArray, DoubleGradients, Gradients, Operands, Tangents
from cudeform.options import Options


@dataclass(frozen=True)
class OnGpu:
    """A case on a device."""

    device: TestDevice
    case: CanonicalSum
    options: Options = field(default_factory=Options)

    def operands(self) -> Operands:
        """The operands."""
        put, case = self.device.put, self.case
        return Operands(put(case.input), put(case.offset), None, None, put(case.mask))

    def run(self, function: Any, *rest: Any) -> None:
        """Run a function of the engine by a launch plan."""
        run: Any = gpu.run
        run(function, self.device, self.operands(), self.case.g, self.options, *rest)

    def output(self) -> Array:
        """The output."""
        output = self.device.empty(output_shape(self.case.g), self.case.input.dtype.name)
        self.run(gpu.sums_forward, output)
        return self.device.read(output)

    def grads(self, wanted: Sequence[str] = OPERANDS) -> Arrays:
        """The gradients of some operands."""
        grads = Gradients(**{n: self._like(n) for n in wanted})
        self.run(gpu.sums_backward, self.device.put(self.case.grad_output), grads)
        return {n: self.device.read(getattr(grads, n)) for n in wanted}

    def jvp(self, tangents: Arrays) -> Array:
        """The tangent of the output."""
        result = self._like("grad_output")
        self.run(gpu.sums_jvp, self._put(tangents), result)
        return self.device.read(result)

    def double(self, cotangents: Arrays, wanted: Sequence[str] = RESULTS) -> Arrays:
        """The gradients of a function of the gradients."""
        results = DoubleGradients(**{n: self._like(n) for n in wanted})
        grad_output = self.device.put(self.case.grad_output)
        self.run(gpu.sums_double_backward, grad_output, self._put(cotangents), results)
        return {n: self.device.read(getattr(results, n)) for n in wanted}

    def _like(self, name: str) -> DeviceArray:
        """An array for a gradient; that of offset or mask has the strides of its operand."""
        array, strides = getattr(self.case, name), None
        if name in ("offset", "mask") and 0 not in array.strides:
            strides = tuple(stride // array.itemsize for stride in array.strides)
        return self.device.empty(array.shape, array.dtype.name, strides=strides)

    def _put(self, tangents: Arrays) -> Tangents:
        return Tangents(**{name: self.device.put(array) for name, array in tangents.items()})
