"""Small calls of operators that sum samples without a filter; they are used as ``Case`` is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from cases import DTYPES, HALF_DTYPES, LAYOUTS
from reference import Sum
from reference_sums import reference_attention, reference_dcn, reference_dcnv4

from cudeform.family import OPERATORS

DEFINITIONS = {
    "ms_deform_attn": reference_attention,
    "dcnv3": reference_dcn,
    "dcnv4": reference_dcnv4,
}


@dataclass(frozen=True, eq=False)
class SumCase:
    """One call of an operator, and a gradient of its output.

    Attributes:
        operator: name of the function.
        operands: the arrays that a call differentiates, by name of the argument.
        grad_output: a gradient of the output.
        settings: the arguments that are no operands.
    """

    operator: str
    operands: dict[str, Any]
    grad_output: Any
    settings: dict[str, Any] = field(default_factory=dict)
    axes: int = 2

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of the function."""
        return {**self.operands, **self.settings}

    @property
    def backward_arguments(self) -> dict[str, Any]:
        """Keyword arguments of its backward."""
        return {"grad_output": self.grad_output, **self.arguments}

    @property
    def batch(self) -> int:
        """Number of images."""
        return len(self.grad_output)

    def map(self, function: Callable[[Any], Any]) -> SumCase:
        """The case with a function applied to each of its arrays."""
        return replace(
            self,
            operands={name: function(array) for name, array in self.operands.items()},
            grad_output=function(self.grad_output),
        )

    def with_operands(self, arrays: dict[str, Any]) -> SumCase:
        """The case with other operands."""
        return replace(self, operands={**self.operands, **arrays})

    def smooth(self) -> SumCase:
        """The case itself: no coordinate is a whole number, where the output has kinks."""
        return self

    def cast(self, dtype: str, coordinates: str | None = None) -> SumCase:
        """The case in a dtype, with coordinates that are exact in float32.

        Args:
            dtype: of the first operand and the gradient.
            coordinates: of the other operands; None for the same.
        """
        wanted = coordinates or dtype
        if {dtype, wanted} - DTYPES.keys():
            pytest.skip("needs ml_dtypes")
        step = 2.0**-30 if wanted == "float64" else 2.0**-7
        (first, image), *others = self.operands.items()
        rounded = {n: (np.round(a / step) * step).astype(DTYPES[wanted]) for n, a in others}
        return replace(
            self,
            operands={first: image.astype(DTYPES[dtype]), **rounded},
            grad_output=self.grad_output.astype(DTYPES[dtype]),
        )

    def laid_out(self, layout: str) -> SumCase:
        """The case with the strides of all its arrays changed, but not their contents."""
        return self.map(LAYOUTS[layout])

    def definition(self, boundary_grad: str = "one_sided") -> dict[str, Sum]:
        """``output`` and the gradients, by name of the argument."""
        define: Any = DEFINITIONS[self.operator]
        sums: dict[str, Sum] = define(**self.backward_arguments, boundary_grad=boundary_grad)
        return sums


def attention(
    name: str,
    *,
    batch: int = 2,
    heads: int = 2,
    channels: int = 3,
    queries: int = 5,
    levels: tuple[tuple[int, int], ...] = ((3, 4), (2, 1), (1, 5)),
    points: int | tuple[int, ...] = 2,
    reach: tuple[float, float] = (-0.2, 1.2),
) -> SumCase:
    """A call of ``ms_deform_attn`` with values that depend on its name alone.

    ``points`` are a number for all levels, or one for each.
    """
    rng = np.random.default_rng(crc32(name.encode()))
    taps = (len(levels), points) if isinstance(points, int) else (sum(points),)
    settings: dict[str, Any] = {"spatial_shapes": levels}
    if not isinstance(points, int):
        settings["points"] = points
    pixels = sum(height * width for height, width in levels)
    arrays = {
        "value": rng.standard_normal((batch, pixels, heads, channels)),
        "sampling_locations": rng.uniform(*reach, (batch, queries, heads, *taps, 2)),
        "attention_weights": rng.standard_normal((batch, queries, heads, *taps)),
    }
    grad_output = rng.standard_normal((batch, queries, heads * channels))
    return SumCase("ms_deform_attn", arrays, grad_output, settings)


def dcn(
    name: str,
    operator: str = "dcnv3",
    *,
    batch: int = 2,
    size: tuple[int, int] = (5, 4),
    groups: int = 2,
    channels: int = 3,
    row: int = 0,
    scale: float = 0.3,
    **settings: Any,
) -> SumCase:
    """A call of ``dcnv3`` or ``dcnv4`` with values that depend on its name alone.

    Args:
        name: of the case.
        operator: dcnv3 or dcnv4.
        batch, size, groups, channels: N, (H, W), G and the channels of each group.
        row: length of a row of ``offset_mask``; 0 for the shortest.
        scale: of random offsets.
        settings: those of the operator, ``groups`` left out; pairs are written as pairs.
    """
    rng = np.random.default_rng(crc32(name.encode()))
    entry = OPERATORS[operator]
    if operator == "dcnv4":
        settings["groups"] = groups
    kernel, stride, dilation = (
        settings.get(each, (1, 1)) for each in ("kernel_size", "stride", "dilation")
    )
    padding = settings.get("padding", ((0, 0), (0, 0)))
    out = tuple(
        (size[a] + sum(padding[a]) - dilation[a] * (kernel[a] - 1) - 1) // stride[a] + 1
        for a in (0, 1)
    )
    taps = kernel[0] * kernel[1] - settings.get("remove_center", False)
    offset = scale * rng.standard_normal((batch, *out, groups, 2 * taps)) + 1 / 16
    mask = rng.standard_normal((batch, *out, groups, taps))
    image = rng.standard_normal((batch, *size, groups * channels))
    grad_output = rng.standard_normal((batch, *out, groups * channels))
    if operator == "dcnv3":
        flat = {"offset": offset, "mask": mask}
        arrays = {n: array.reshape(batch, *out, -1) for n, array in flat.items()}
    else:
        packed = np.concatenate([offset, mask], -1).reshape(batch, *out, -1)
        rows = np.full((batch, *out, max(row, packed.shape[-1])), 7.0)  # 7 is never read
        rows[..., : packed.shape[-1]] = packed
        arrays = {"offset_mask": rows}
    assert list(arrays) == [operand.public for operand in entry.operands[1:]]
    return SumCase(operator, {"input": image, **arrays}, grad_output, settings)


# One of each operator. Nothing is alike along two axes.
ATTENTION = attention("attention")
DCNV3 = dcn(
    "dcnv3",
    kernel_size=(3, 2),
    stride=(2, 1),
    padding=((1, 0), (0, 2)),
    dilation=(1, 2),
    offset_scale=0.5,
)
DCNV4 = dcn(
    "dcnv4",
    "dcnv4",
    row=16,
    kernel_size=(1, 3),
    padding=((0, 1), (1, 1)),
    offset_scale=2.0,
    remove_center=True,
)
SUM_CASES = [ATTENTION, DCNV3, DCNV4]

# (dtype of the value, dtype of coordinates and weights)
TWO_DTYPES = [(half, other) for half in HALF_DTYPES for other in (half, "float32")]
