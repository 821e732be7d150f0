"""The order of the axes of tensors: the engine's, or TensorFlow's own with channels last.

With channels last, images are (N, H, W, C) and filters (KH, KW, C/groups, O). The engine gets views
with its order, so nothing is copied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

IMAGES = ("input", "offset", "mask", "output", "grad_output")
FILTERS = ("weight",)


@dataclass(frozen=True)
class Layout:
    """The order of axes in which tensors come and go.

    Attributes:
        channels_last: whether it is TensorFlow's.
    """

    channels_last: bool = False

    def to_engine(self, name: str, array: Any) -> Any:
        """A view in the engine's order of a tensor's array."""
        order = self._order(name, array.ndim)
        return array if order is None else array.transpose(order)

    def inside(self, name: str, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """The shape in the engine's order of a tensor's shape."""
        order = self._order(name, len(shape))
        return shape if order is None else tuple(shape[axis] for axis in order)

    def outside(self, name: str, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """The shape of a tensor from the shape that the engine sees."""
        order = self._order(name, len(shape))
        return (
            shape
            if order is None
            else tuple(shape[order.index(axis)] for axis in range(len(shape)))
        )

    @property
    def remark(self) -> str:
        """What an error text about shapes in the engine's order has to add."""
        if not self.channels_last:
            return ""
        return (
            ' (shapes in the order of data_format="NCHW", the weight\'s as (O, C/groups, KH, KW))'
        )

    def _order(self, name: str, rank: int) -> tuple[int, ...] | None:
        """The axes of a tensor in the engine's order; None where it is the same."""
        if not self.channels_last:
            return None
        of = name.removeprefix("tangent of ")
        if of in IMAGES:
            return (0, rank - 1, *range(1, rank - 1))
        if of in FILTERS:
            return (rank - 1, rank - 2, *range(rank - 2))
        return None


NCHW, NHWC = Layout(), Layout(channels_last=True)
