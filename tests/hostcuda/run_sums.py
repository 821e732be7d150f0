"""What ``run.py`` reads of a case whose operator sums samples without a filter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from cudeform.arrays import Operands
from cudeform.checks import check_dtypes
from cudeform.spec import AnyGeometry, AnySettings, Operator
from cudeform.sums.settings import AttentionSettings, DCNv3Settings, DCNv4Settings

Arrays = Mapping[str, NDArray[Any]]

# The numbers of ``params`` for dcnv3, in the order of its signature. In that of dcnv4 the groups
# follow the kernel.
GRID = (
    *("kernel_h", "kernel_w", "stride_h", "stride_w", "pad_h", "pad_w"),
    *("dilation_h", "dilation_w", "offset_scale", "remove_center"),
)


def sum_geometry(operator: Operator, arrays: Arrays) -> AnyGeometry:
    """The sizes of a case; raises ValueError if arrays and ``params`` do not fit together."""
    operands = {operand.name: operand.public for operand in operator.operands}
    for name in (*operands.values(), "params"):
        if name not in arrays:
            raise ValueError(f"{name} is missing")
    present = [*operands.values(), *(["grad_output"] if "grad_output" in arrays else [])]
    check_dtypes({name: arrays[name].dtype.name for name in present}, operator.coordinates)
    shapes: dict[str, Any] = {name: arrays[public].shape for name, public in operands.items()}
    return operator.geometry(Operands(**shapes), sum_settings(operator, arrays["params"]))


def sum_settings(operator: Operator, params: NDArray[Any]) -> AnySettings:
    """The settings of a case."""
    if operator.settings is AttentionSettings:
        if params.ndim != 2 or params.shape[1] not in (2, 3) or params.dtype.kind not in "iu":
            raise ValueError(
                "params must be integers (height, width), or (height, width, points), for each "
                f"level, got {params!r}"
            )
        points = tuple(params[:, 2].tolist()) if params.shape[1] == 3 else None
        return AttentionSettings(tuple(map(tuple, params[:, :2].tolist())), points)
    is_packed = operator.settings is DCNv4Settings
    names = (*GRID[:2], *(["groups"] if is_packed else []), *GRID[2:])
    if params.shape != (len(names),):
        raise ValueError(f"params must be the numbers {', '.join(names)}, got {params!r}")
    numbers = params.tolist()
    groups = int(numbers.pop(2)) if is_packed else 0
    *pairs, scale, removes = numbers
    kernel, stride, padding, dilation = (
        (int(pairs[at]), int(pairs[at + 1])) for at in range(0, 8, 2)
    )
    grid = DCNv3Settings(kernel, stride, padding, dilation, scale, bool(removes))
    return DCNv4Settings(grid.kernel_size, groups, *grid[1:]) if is_packed else grid
