"""Workspace of a call, buffer by buffer: what each costs per call, per image and per position.

An algorithm adds up the costs of its buffers, and ``chunks`` cuts the call by the sum.
"""

from __future__ import annotations

from dataclasses import dataclass

from cudeform.geometry import Geometry


@dataclass(frozen=True)
class Costs:
    """Bytes of workspace.

    Attributes:
        call: for the whole call.
        image: for each image of a chunk.
        position: for each output position of a chunk.
    """

    call: int = 0
    image: int = 0
    position: int = 0

    def __add__(self, other: Costs) -> Costs:
        """Costs of both."""
        return Costs(
            self.call + other.call, self.image + other.image, self.position + other.position
        )

    def purposes(self, g: Geometry) -> str:
        """What the smallest possible workspace is needed for, in words."""
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
