"""Sums of samples for tests: cases, their definition, and the GPU engine's results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from support import sums_reference as reference
from support.gpu_engine import TestDevice

from cudeform import gpu
from cudeform.arrays import DeviceArray, DoubleGradients, Gradients, Operands, Tangents
from cudeform.options import Options
from cudeform.sums_geometry import Level, ScaledGrid, SumGeometry

Array = NDArray[Any]
Arrays = dict[str, Array]

OPERANDS = ("input", "offset", "mask")
RESULTS = ("grad_output", *OPERANDS)
DTYPES = {"bfloat16": np.dtype(ml_dtypes.bfloat16)}


@dataclass(frozen=True)
class SumCase:
    """Sizes, and the arrays in their canonical form: input, offset, mask, grad_output."""

    g: SumGeometry
    arrays: Arrays

    def cast(self, dtype: str, coord_dtype: str | None = None) -> SumCase:
        """The same numbers in other dtypes."""
        by_name = dict.fromkeys(("offset", "mask"), coord_dtype or dtype)
        return replace(
            self,
            arrays={
                name: array.astype(DTYPES.get(to := by_name.get(name, dtype), to))
                for name, array in self.arrays.items()
            },
        )

    def __getattr__(self, name: str) -> Array:
        """An array by its name."""
        if name == "arrays" or name not in self.arrays:
            raise AttributeError(name)
        return self.arrays[name]


def attention(
    levels: tuple[tuple[int, int, int], ...] = ((6, 5, 4), (3, 4, 1), (2, 1, 4)),
    *,
    batch: int = 2,
    queries: int = 7,
    groups: int = 3,
    channels: int = 8,
    seed: int = 0,
) -> SumCase:
    """An attention over levels of (height, width, taps); locations reach beyond them."""
    first, images = 0, []
    for height, width, taps in levels:
        images.append(Level(first, height, width, taps))
        first += height * width
    g = SumGeometry(batch, groups, channels, (queries, 1), tuple(images))
    rng = np.random.default_rng(seed)
    return _case(g, (first, 1), rng.uniform(-0.2, 1.2, offset_shape(g)), rng)


def grid(
    kernel: tuple[int, int] = (5, 3),
    *,
    scale: float = 0.7,
    remove_center: bool = True,
    batch: int = 2,
    groups: int = 3,
    channels: int = 8,
    seed: int = 0,
) -> SumCase:
    """A DCNv3 with other sizes along each axis; offsets reach beyond the image."""
    levels = (Level(0, 8, 11, kernel[0] * kernel[1] - remove_center),)
    scaled = ScaledGrid(kernel, (2, 3), (1, 2), (1, 2), scale, remove_center)
    g = SumGeometry(batch, groups, channels, (4, 5), levels, scaled)
    rng = np.random.default_rng(seed)
    return _case(g, (8, 11), 2 * rng.standard_normal(offset_shape(g)), rng)


def _case(g: SumGeometry, size: tuple[int, int], offset: Array, rng: Any) -> SumCase:
    shapes = {
        "input": (g.batch, *size, g.groups, g.channels),
        "mask": offset.shape[:-1],
        "grad_output": output_shape(g),
    }
    arrays = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    return SumCase(g, arrays | {"offset": offset})


def offset_shape(g: SumGeometry) -> tuple[int, ...]:
    """(N, OH, OW, G, P, 2)."""
    return (g.batch, *g.out, g.groups, g.taps, 2)


def output_shape(g: SumGeometry) -> tuple[int, ...]:
    """(N, OH, OW, G, D)."""
    return (g.batch, *g.out, g.groups, g.channels)


def expected(case: SumCase, rule: str = "one_sided") -> Arrays:
    """Output and gradients in float64, by plain loops."""
    g, operands = case.g, (case.input, case.offset, case.mask)
    grads = reference.backward(g, *operands, case.grad_output, zero=rule == "zero")
    return {"output": reference.forward(g, *operands), **dict(zip(OPERANDS, grads, strict=True))}


# ---- the GPU engine ------------------------------------------------------------------------------


@dataclass(frozen=True)
class OnGpu:
    """A case on a device."""

    device: TestDevice
    case: SumCase
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


def directions(case: SumCase, names: Sequence[str] = OPERANDS, seed: int = 1) -> Arrays:
    """Random tangents of some operands."""
    rng = np.random.default_rng(seed)
    arrays = {name: getattr(case, name) for name in names}
    return {name: rng.standard_normal(a.shape).astype(a.dtype) for name, a in arrays.items()}


def assert_close(got: Any, wanted: Any, error: float, what: str = "") -> None:
    """Check for an error relative to the largest value."""
    atol = error * max(1e-30, abs(np.asarray(wanted, float)).max())
    got, wanted = np.asarray(got, float), np.asarray(wanted, float)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=atol, err_msg=what)
