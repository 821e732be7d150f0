"""For every operator of the table, small calls and the public functions."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
import pytest
from cases import ASYMMETRIC, Case, build
from reference import Sum, paired, reference
from support.sumcases import SUM_CASES, SumCase

import cudeform
from cudeform import derivatives
from cudeform.family import OPERATORS


class Functions(NamedTuple):
    """What users call."""

    forward: Any
    backward: Any
    jvp: Any
    double_backward: Any
    tangents: Any


FUNCTIONS = {
    name: Functions(
        getattr(cudeform, name),
        getattr(cudeform, f"{name}_backward"),
        getattr(derivatives, f"{name}_jvp"),
        getattr(derivatives, f"{name}_double_backward"),
        operator.tangents[0],
    )
    for name, operator in OPERATORS.items()
}


@dataclass(frozen=True, eq=False)
class TransposedCase(Case):
    """One call of a transposed convolution, and a gradient of its output."""

    output_padding: Any = 0
    groups: int = 1

    @property
    def operator(self) -> str:
        """Name of the function."""
        return f"deform_conv_transpose{self.axes}d"

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments that are no arrays."""
        more = {name: getattr(self, name) for name in ("output_padding", "groups")}
        return super().settings | more

    @property
    def convolution(self) -> Case:
        """The convolution whose gradient by the input it is, with exchanged roles."""
        settings = {name: getattr(self, name) for name in ("stride", "padding", "dilation")}
        return Case(
            self.name,
            self.grad_output,
            self.offset,
            self.weight,
            None,
            self.mask,
            self.input,
            **settings,
        )


def build_transposed(
    name: str,
    *,
    batch: int = 2,
    channels: int = 4,
    size: tuple[int, ...],
    out_channels: int = 4,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
    output_padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int = 2,
    offset_groups: int = 2,
    bias: bool = True,
    mask: bool = True,
) -> TransposedCase:
    """A case with values that depend on its name alone, in as many dimensions as the size has."""
    rng = np.random.default_rng(crc32(name.encode()))
    taps, axes = prod(kernel), len(size)
    out = tuple(
        (size[a] - 1) * stride[a]
        - sum(padding[a])
        + dilation[a] * (kernel[a] - 1)
        + 1
        + output_padding[a]
        for a in range(axes)
    )
    return TransposedCase(
        name=name,
        input=rng.standard_normal((batch, channels, *size)),
        offset=0.1 * rng.standard_normal((batch, axes * offset_groups * taps, *size)),
        weight=rng.standard_normal((channels, out_channels // groups, *kernel)),
        bias=rng.standard_normal(out_channels) if bias else None,
        mask=rng.standard_normal((batch, offset_groups * taps, *size)) if mask else None,
        grad_output=rng.standard_normal((batch, out_channels, *out)),
        stride=stride,
        padding=padding,
        dilation=dilation,
        output_padding=output_padding,
        groups=groups,
    )


# Nothing is alike along two axes.
CONVOLUTIONS: list[Case] = [
    build(
        "line",
        channels=4,
        size=(7,),
        out_channels=2,
        kernel=(3,),
        stride=(2,),
        padding=((2, 1),),
        groups=2,
        offset_groups=2,
        offset="small",
    ),
    build("image", **ASYMMETRIC, offset="small"),
    build(
        "volume",
        batch=1,
        channels=4,
        size=(2, 3, 4),
        out_channels=2,
        kernel=(1, 2, 3),
        stride=(1, 2, 1),
        padding=((1, 0), (0, 1), (2, 0)),
        groups=2,
        offset_groups=2,
        offset="small",
    ),
    build_transposed(
        "transposed line",
        size=(5,),
        kernel=(3,),
        stride=(2,),
        padding=((1, 0),),
        output_padding=(1,),
        dilation=(2,),
    ),
    build_transposed(
        "transposed image",
        channels=6,
        size=(3, 4),
        out_channels=4,
        kernel=(3, 2),
        stride=(1, 3),
        padding=((2, 1), (0, 1)),
        output_padding=(1, 2),
        dilation=(2, 1),
    ),
    build_transposed(
        "transposed volume",
        batch=1,
        channels=2,
        size=(2, 1, 3),
        out_channels=2,
        kernel=(1, 3, 2),
        stride=(2, 1, 3),
        padding=((0, 1), (1, 0), (0, 0)),
        output_padding=(1, 0, 2),
        dilation=(1, 2, 1),
        offset_groups=1,
    ),
]

AnyCase = Case | SumCase

CASES: list[AnyCase] = [*CONVOLUTIONS, *SUM_CASES]

every = pytest.mark.parametrize("case", CASES, ids=lambda case: case.operator)
every_convolution = pytest.mark.parametrize("case", CONVOLUTIONS, ids=lambda case: case.operator)


def takes_long(case: AnyCase) -> list[Any]:
    """Marks for tests that take seconds: the default run has one operator of each kind."""
    usual = ("deform_conv2d", "deform_conv_transpose2d", "ms_deform_attn")
    return [] if case.operator in usual else [pytest.mark.slow]


every_slowly = pytest.mark.parametrize(
    "case", [pytest.param(c, id=c.operator, marks=takes_long(c)) for c in CASES]
)


def function_of_operands(case: AnyCase) -> Any:
    """The function of a case as one of its operands, in order."""
    call, names, settings = functions_of(case).forward, [*case.operands], case.settings
    return lambda *given: call(**dict(zip(names, given, strict=True)), **settings)


def differentiated(case: AnyCase) -> list[str]:
    """Names of the operands that gradients depend on."""
    return [name for name in case.operands if name != "bias"]


def shared(case: AnyCase) -> list[str]:
    """Names of the operands that all images share."""
    return [name for name in case.operands if name in OPERATORS[case.operator].parameters]


def linear(case: AnyCase) -> list[str]:
    """Names of the operands in which a call is linear, but the bias."""
    operands = OPERATORS[case.operator].operands
    return [each.public for each in operands if each.name not in ("offset", "bias")]


def functions_of(case: AnyCase) -> Functions:
    """The functions that a case is a call of."""
    return FUNCTIONS[case.operator]


def definition(case: AnyCase) -> dict[str, Sum]:
    """``output`` and the gradients of a case, by name of the argument."""
    if isinstance(case, SumCase):
        return case.definition()
    if not isinstance(case, TransposedCase):
        return reference(**case.backward_arguments)
    exchanged = reference(**case.convolution.backward_arguments)
    results = {
        **{name: exchanged[name] for name in ("offset", "weight", "mask") if name in exchanged},
        "output": exchanged["input"],
        "input": exchanged["output"],
    }
    if case.bias is not None:
        spatial = tuple(range(3, 3 + case.axes))
        bias = np.expand_dims(paired(case.bias), (1, *spatial))
        results["output"] = Sum(results["output"].pair + bias)
        results["bias"] = Sum(paired(case.grad_output).sum(axis=(1, *spatial)))
    return results
