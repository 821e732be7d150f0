"""Checks of shapes and sizes that several operators share, and the texts of their errors.

The letters of shapes are those in ``geometry.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from numbers import Integral

from cudeform.settings import AXIS_NAMES, LARGEST

Shape = tuple[int, ...]


@dataclass(frozen=True)
class ShapeRules:
    """The shapes of arrays in letters, for error texts: in two dimensions (N, C, H, W) and so on.

    Attributes:
        size, kernel: the letters of an image's size and of the kernel's, "H, W" and "KH, KW".
        coordinates: channels of the offset for each offset group, "2*KH*KW".
    """

    size: str
    kernel: str
    coordinates: str
    input: str
    weight: str
    offset: str
    mask: str
    output: str

    @staticmethod
    @lru_cache
    def of(axes: int, positions: str = "O") -> ShapeRules:
        """Those for a number of axes; ``positions`` is the prefix of the positions' letters."""
        letters = [name[0].upper() for name in AXIS_NAMES[-axes:]]
        size, kernel, out, at = (
            ", ".join(prefix + letter for letter in letters) for prefix in ("", "K", "O", positions)
        )
        taps, several = kernel.replace(", ", "*"), f"{axes}*" if axes > 1 else ""
        return ShapeRules(
            size=size,
            kernel=kernel,
            coordinates=several + taps,
            input=f"(N, C, {size})",
            weight=f"(O, C/groups, {kernel})",
            offset=f"(N, {several}offset_groups*{taps}, {at})",
            mask=f"(N, offset_groups*{taps}, {at})",
            output=f"(N, O, {out})",
        )


def offset_groups_of(
    channels: int, offset: Shape, taps: int, axes: int, *, letter: str = "C", out: str = "O"
) -> int:
    """Offset groups, inferred from the shape of the offset.

    Args:
        channels: those of the images that are sampled.
        offset: the shape.
        taps: positions of the kernel.
        axes: number of spatial axes.
        letter: of the channels, for error texts.
        out: prefix of the letters of the positions, for error texts.

    Raises:
        ValueError: the channels of the offset are no multiple of ``axes * taps``, or the number of
            offset groups does not divide ``channels``.
    """
    rules, coordinates = ShapeRules.of(axes, out), axes * taps
    check_rank("offset", rules.offset, offset, axes)
    # divmod does not take the symbols of a compiler.
    offset_groups, rest = offset[1] // coordinates, offset[1] % coordinates
    if offset_groups < 1 or rest:
        raise ValueError(
            f"offset must have shape {rules.offset}: offset.shape[1] must be a positive multiple "
            f"of {rules.coordinates} = {coordinates} (offset_groups = 1 makes it {coordinates}), "
            f"got {offset}"
        )
    if channels % offset_groups:
        raise ValueError(
            f"offset_groups = offset.shape[1] / ({rules.coordinates}) = {offset_groups} must "
            f"divide {letter} = {channels}, got offset of shape {offset}"
        )
    return offset_groups


def out_size(
    name: str, size: int, padding: tuple[int, int], dilation: int, kernel: int, stride: int
) -> int:
    """Positions of the output along an axis."""
    # A size that a compiler traces is a symbol. Comparing it would bound it in the traced program,
    # and the call itself is checked when it runs.
    if isinstance(size, Integral) and size + sum(padding) > LARGEST:
        raise ValueError(
            f"input {name} plus padding must be at most {LARGEST}, got {size} + {sum(padding)}"
        )
    room = size + sum(padding) - dilation * (kernel - 1) - 1
    # Floor division: a kernel larger than the padded image gives a size below 1, not 1.
    out = room // stride + 1
    if out < 1:
        raise ValueError(
            f"output {name} = (size + padding - dilation*(kernel - 1) - 1) // stride + 1 must be "
            f"positive: ({size} + {sum(padding)} - {dilation}*({kernel} - 1) - 1) // {stride} + 1 "
            f"= {out}; enlarge the padding or the input"
        )
    return out


def expect(name: str, rule: str, expected: Shape, got: Shape) -> None:
    """Check the shape of an array; ``rule`` is its shape in letters."""
    if got != expected:
        raise ValueError(f"{name} must have shape {rule} = {expected}, got {got}")


def check_rank(name: str, rule: str, shape: Shape, axes: int) -> None:
    """Check the number of axes of an array; ``rule`` is its shape in letters."""
    if len(shape) != axes + 2:
        raise ValueError(f"{name} must have shape {rule}, got {shape}")
