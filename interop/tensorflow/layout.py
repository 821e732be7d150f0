"""The axis order of tensors: the engine's, or TensorFlow's with channels last.

With channels last, images in two dimensions are (N, H, W, C) and filters (KH, KW, C/groups, O). The
engine gets views in its own order, so nothing is copied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

IMAGES = ("input", "offset", "mask", "output", "grad_output")
FILTERS = ("weight",)


@dataclass(frozen=True)
class Layout:
    """The axis order of the tensors of a call, arguments and results.

    Attributes:
        channels_last: whether the order is TensorFlow's.
        engine_order: the value of ``data_format`` for the engine's order, for error texts.
    """

    channels_last: bool = False
    engine_order: str = ""

    def to_engine(self, name: str, array: Any) -> Any:
        """A view of a tensor's array in the engine's order."""
        order = self._order(name, array.ndim)
        return array if order is None else array.transpose(order)

    def inside(self, name: str, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """Convert a tensor's shape to the engine's order."""
        order = self._order(name, len(shape))
        return shape if order is None else tuple(shape[axis] for axis in order)

    def outside(self, name: str, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """Convert a shape in the engine's order to the tensor's order."""
        order = self._order(name, len(shape))
        return (
            shape
            if order is None
            else tuple(shape[order.index(axis)] for axis in range(len(shape)))
        )

    @property
    def remark(self) -> str:
        """A remark for errors, whose text gives shapes in the engine's order."""
        if not self.channels_last:
            return ""
        kernel = ", ".join(f"K{axis}" for axis in self.engine_order[2:])
        return (
            f' (shapes in the order of data_format="{self.engine_order}", '
            f"the weight's as (O, C/groups, {kernel}))"
        )

    def _order(self, name: str, rank: int) -> tuple[int, ...] | None:
        """The axes of a tensor in the engine's order; None if the orders agree."""
        if not self.channels_last:
            return None
        of = name.removeprefix("tangent of ")
        if of in IMAGES:
            return (0, rank - 1, *range(1, rank - 1))
        if of in FILTERS:
            return (rank - 1, rank - 2, *range(rank - 2))
        return None


CHANNELS_FIRST = Layout()

# Layouts by the values of ``data_format`` that each number of axes has.
LAYOUTS = {
    1: {"NWC": Layout(True, "NCW"), "NCW": CHANNELS_FIRST},
    2: {"NHWC": Layout(True, "NCHW"), "NCHW": CHANNELS_FIRST},
    3: {"NDHWC": Layout(True, "NCDHW"), "NCDHW": CHANNELS_FIRST},
}
