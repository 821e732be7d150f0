"""The table of operators: an ``Operator`` of ``spec.py`` for each public function.

The public functions with their argument lists are in ``operators/``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cudeform import engine
from cudeform.arrays import (
    AttentionDoubleGradients,
    AttentionGradients,
    DCNv3DoubleGradients,
    DCNv3Gradients,
    DCNv4DoubleGradients,
    DCNv4Gradients,
    Operands,
)
from cudeform.geometry import Geometry, convolution_geometry
from cudeform.settings import Settings
from cudeform.spec import (
    BIAS,
    FILTERS,
    IMAGES,
    POSITIONS,
    AnyGeometry,
    AnySettings,
    Operand,
    Operator,
)
from cudeform.sums.engine import ENGINE as SUMS_ENGINE
from cudeform.sums.settings import AttentionSettings, DCNv3Settings, DCNv4Settings
from cudeform.sums.shapes import SumShapes, attention_shapes, dcnv3_shapes, dcnv4_shapes
from cudeform.transposed.engine import ENGINE as TRANSPOSED_ENGINE
from cudeform.transposed.geometry import (
    TransposedGeometry,
    TransposedSettings,
    transposed_geometry,
)


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
        engine=TRANSPOSED_ENGINE,
    )


def _summed(
    name: str,
    operands: tuple[Operand, ...],
    settings: type[AnySettings],
    sizes: Callable[[Operands, Any, int, bool], AnyGeometry],
    gradients: type[Any],
    double_gradients: type[Any],
) -> Operator:
    """An operator that adds up samples without a filter."""
    return Operator(
        name=name,
        axes=2,
        operands=operands,
        output=POSITIONS,
        settings=settings,
        geometry_type=SumShapes,
        sizes=sizes,
        engine=SUMS_ENGINE,
        gradients=gradients,
        double_gradients=double_gradients,
        tangents=(gradients,),
    )


def _coordinates(name: str, argument: str = "") -> Operand:
    return Operand(name, POSITIONS, argument=argument, coordinates=True)


MS_DEFORM_ATTN = _summed(
    "ms_deform_attn",
    (
        Operand("input", IMAGES, argument="value"),
        _coordinates("offset", "sampling_locations"),
        _coordinates("mask", "attention_weights"),
    ),
    AttentionSettings,
    attention_shapes,
    AttentionGradients,
    AttentionDoubleGradients,
)
DCNV3 = _summed(
    "dcnv3",
    (Operand("input", IMAGES), _coordinates("offset"), _coordinates("mask")),
    DCNv3Settings,
    dcnv3_shapes,
    DCNv3Gradients,
    DCNv3DoubleGradients,
)
DCNV4 = _summed(
    "dcnv4",
    (Operand("input", IMAGES), _coordinates("offset", "offset_mask")),
    DCNv4Settings,
    dcnv4_shapes,
    DCNv4Gradients,
    DCNv4DoubleGradients,
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
        MS_DEFORM_ATTN,
        DCNV3,
        DCNV4,
    )
}
