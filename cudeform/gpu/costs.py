"""Workspace of each buffer of a call: bytes per call, per image and per position.

An algorithm adds the costs of its buffers; ``chunks`` cuts the call according to the sum.
"""

from __future__ import annotations

from dataclasses import dataclass

from cudeform.geometry import Geometry


@dataclass(frozen=True)
class Costs:
    """Bytes of workspace.

    Attributes:
        call: bytes for the whole call.
        image: bytes for each image of a chunk.
        position: bytes for each output position of a chunk.
    """

    call: int = 0
    image: int = 0
    position: int = 0

    def __add__(self, other: Costs) -> Costs:
        """The sum of two costs."""
        return Costs(
            self.call + other.call, self.image + other.image, self.position + other.position
        )

    def purposes(self, g: Geometry) -> str:
        """What the smallest possible workspace contains, in words, for an error."""
        costs = {
            "the weight": self.call,
            "one image": self.image,
            f"one {'row' if g.axes > 1 else 'position'} of the output": self.position,
        }
        *others, last = [what for what, nbytes in costs.items() if nbytes]
        return f"{', '.join(others)} and {last}" if others else last


def packed_weight(g: Geometry, ld_columns: int, itemsize: int) -> Costs:
    """A weight with the layout of the columns' rows, or its gradient."""
    return Costs(call=g.out_channels * ld_columns * itemsize)


def images(g: Geometry, itemsize: int) -> Costs:
    """Channels-last images of the input, or their gradient."""
    return Costs(image=g.channels * g.in_pixels * itemsize)


def columns(g: Geometry, ld_columns: int, itemsize: int) -> Costs:
    """Columns of all groups, or their gradient."""
    return Costs(position=g.groups * ld_columns * itemsize)


def grad_output(g: Geometry, itemsize: int) -> Costs:
    """A channels-last copy of the output's gradient."""
    return Costs(position=g.out_channels * itemsize)
