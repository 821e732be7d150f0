"""Checks the shapes of deformable attention, DCNv3 and DCNv4, and makes the sizes of a call.

The arrays that users pass have one shape for each operator; ``SumGeometry`` has the canonical one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

from cudeform.arrays import Operands
from cudeform.settings import LARGEST
from cudeform.shape_rules import Shape, expect, out_size
from cudeform.sums.settings import AttentionSettings, DCNv3Settings, DCNv4Settings
from cudeform.sums_geometry import Level, ScaledGrid, SumGeometry


@dataclass(frozen=True)
class SumShapes:
    """The sizes of one call, and the shapes of its arrays as users have them.

    Attributes:
        sizes: what the engine works with.
        input_shape, offset_shape, output_shape: of these arrays.
        mask_shape: the same; None where the offset's array holds the masks too, as in DCNv4.
    """

    sizes: SumGeometry
    input_shape: Shape
    offset_shape: Shape
    mask_shape: Shape | None
    output_shape: Shape

    @property
    def batch(self) -> int:
        """N."""
        return self.sizes.batch

    def with_batch(self, batch: int) -> SumShapes:
        """The same call on another number of images."""
        return SumShapes(
            self.sizes.with_batch(batch),
            (batch, *self.input_shape[1:]),
            (batch, *self.offset_shape[1:]),
            None if self.mask_shape is None else (batch, *self.mask_shape[1:]),
            (batch, *self.output_shape[1:]),
        )

    @staticmethod
    def of_fields(fields: Mapping[str, Any]) -> SumShapes:
        """Sizes from their fields as JSON has them."""
        shapes = {n: value and tuple(value) for n, value in fields.items() if n != "sizes"}
        return SumShapes(SumGeometry.of_fields(fields["sizes"]), **shapes)

    def check_grad_output(self, shape: Sequence[int]) -> None:
        """Check that a gradient of the output has the output's shape."""
        rule = "(N, Lq, M*D)" if self.sizes.grid is None else "(N, OH, OW, C)"
        expect("grad_output", rule, self.output_shape, tuple(shape))


# ---- deformable attention ------------------------------------------------------------------------

VALUE = "(N, S, M, D)"
LOCATIONS = "(N, Lq, M, L, P, 2)"
MERGED = "(N, Lq, M, sum of points, 2)"


def attention_shapes(
    shapes: Operands, settings: AttentionSettings, axes: int, traced: bool = False
) -> SumShapes:
    """The sizes of a call of ``ms_deform_attn``, from the shapes of its arrays and its settings.

    Raises:
        TypeError: settings that are not integers.
        ValueError: an impossible shape; the text has the rule, its value here and what was passed.
    """
    # Packing checks the settings and writes equal ones alike.
    checked = AttentionSettings.unpacked(settings.packed(axes), axes)
    value, locations, weights = _plain(shapes)
    return (_attention if traced else _cached_attention)(value, locations, weights, checked)


def _attention(
    value: Shape, locations: Shape, weights: Shape, settings: AttentionSettings
) -> SumShapes:
    _check_rank("value", VALUE, value, 4)
    batch, pixels, heads, channels = value
    points = _points(locations, settings)
    levels, first = [], 0
    for (height, width), taps in zip(settings.spatial_shapes, points, strict=True):
        levels.append(Level(first, height, width, taps))
        first += height * width
    if first > LARGEST:
        raise ValueError(f"the levels must have at most {LARGEST} pixels together, got {first}")
    if pixels != first:
        raise ValueError(
            f"value must have shape {VALUE} with S = sum of height*width over the levels of "
            f"spatial_shapes = {first}, got {value}"
        )
    if heads < 1:
        raise ValueError(f"value must have shape {VALUE} with M >= 1, got {value}")
    queries = locations[1]
    rule, of_taps = LOCATIONS, locations[3:-1]
    expect("sampling_locations", rule if len(of_taps) == 2 else MERGED,
           (batch, queries, heads, *of_taps, 2), locations)  # fmt: skip
    rule = "(N, Lq, M, L, P)" if len(of_taps) == 2 else "(N, Lq, M, sum of points)"
    expect("attention_weights", rule, (batch, queries, heads, *of_taps), weights)
    sizes = SumGeometry(batch, heads, channels, (queries, 1), tuple(levels))
    return SumShapes(sizes, value, locations, weights, (batch, queries, heads * channels))


_cached_attention = lru_cache(maxsize=256)(_attention)


def _points(locations: Shape, settings: AttentionSettings) -> tuple[int, ...]:
    """Points of each level, which are given or follow from the shape of the locations."""
    levels, points = len(settings.spatial_shapes), settings.points
    if points is None:
        if len(locations) != 6:
            remedy = f"; write points=[...] for {MERGED}" if len(locations) == 5 else ""
            raise ValueError(
                f"sampling_locations must have shape {LOCATIONS}, got {locations}{remedy}"
            )
        if locations[3] != levels or locations[4] < 1:
            raise ValueError(
                f"sampling_locations must have shape {LOCATIONS} with L = {levels}, the levels of "
                f"spatial_shapes, and P >= 1, got {locations}"
            )
        return (locations[4],) * levels
    if len(locations) != 5 or locations[3] != sum(points):
        raise ValueError(
            f"sampling_locations must have shape {MERGED} with sum of points = {sum(points)}, "
            f"as points = {tuple(points)} is given, got {locations}"
        )
    return tuple(points)


# ---- DCNv3 and DCNv4 -----------------------------------------------------------------------------

IMAGE = "(N, H, W, C)"


def dcnv3_shapes(
    shapes: Operands, settings: DCNv3Settings, axes: int, traced: bool = False
) -> SumShapes:
    """The sizes of a call of ``dcnv3``, from the shapes of its arrays and its settings.

    ``groups = mask.shape[3] // P`` is inferred; P is the number of taps.

    Raises:
        TypeError: settings of a wrong type.
        ValueError: an impossible shape or size; the text has the rule, its value here and what was
            passed.
    """
    checked = DCNv3Settings.unpacked(settings.packed(axes), axes)
    input, offset, mask = _plain(shapes)
    return (_dcnv3 if traced else _cached_dcnv3)(input, offset, mask, checked)


def dcnv4_shapes(
    shapes: Operands, settings: DCNv4Settings, axes: int, traced: bool = False
) -> SumShapes:
    """The sizes of a call of ``dcnv4``, from the shapes of its arrays and its settings.

    Raises:
        TypeError: settings of a wrong type.
        ValueError: an impossible shape or size; the text has the rule, its value here and what was
            passed.
    """
    checked = DCNv4Settings.unpacked(settings.packed(axes), axes)
    input, rows = _plain(shapes)
    return (_dcnv4 if traced else _cached_dcnv4)(input, rows, checked)


def _dcnv3(input: Shape, offset: Shape, mask: Shape, settings: DCNv3Settings) -> SumShapes:
    out, grid = _grid(input, settings)
    taps = grid.taps
    _check_rank("mask", "(N, OH, OW, groups*P)", mask, 4)
    if mask[3] < 1 or mask[3] % taps:
        raise ValueError(
            f"mask must have shape (N, OH, OW, groups*P) with P = {taps} taps of the kernel, "
            f"got {mask}"
        )
    groups = mask[3] // taps
    sizes = _sizes(input, out, groups, grid)
    expect("mask", "(N, OH, OW, groups*P)", (input[0], *out, groups * taps), mask)
    expect("offset", "(N, OH, OW, groups*P*2)", (input[0], *out, groups * taps * 2), offset)
    return SumShapes(sizes, input, offset, mask, (input[0], *out, input[3]))


def _dcnv4(input: Shape, rows: Shape, settings: DCNv4Settings) -> SumShapes:
    out, grid = _grid(input, settings.grid)
    rule, least = "(N, OH, OW, R)", settings.groups * grid.taps * 3
    _check_rank("offset_mask", rule, rows, 4)
    expect("offset_mask", rule, (input[0], *out, rows[3]), rows)
    if rows[3] < least:
        raise ValueError(
            f"offset_mask must have shape {rule} with R >= groups*P*3 = {settings.groups}*"
            f"{grid.taps}*3 = {least}, got {rows}"
        )
    sizes = _sizes(input, out, settings.groups, grid)
    return SumShapes(sizes, input, rows, None, (input[0], *out, input[3]))


_cached_dcnv3 = lru_cache(maxsize=256)(_dcnv3)
_cached_dcnv4 = lru_cache(maxsize=256)(_dcnv4)


def _grid(input: Shape, settings: DCNv3Settings) -> tuple[tuple[int, int], ScaledGrid]:
    """Size of the output, and the grid, whose pairs are in the order (x, y)."""
    _check_rank("input", IMAGE, input, 4)
    size, checked = input[1:3], cast(Any, settings)  # packing has made pairs of everything
    kernel, stride, padding, dilation = checked[:4]
    if any(each < 1 for each in size):
        raise ValueError(f"input must have shape {IMAGE} with H, W >= 1, got {input}")
    by_axis = zip(("height", "width"), size, padding, dilation, kernel, stride, strict=True)
    height, width = [out_size(*of_axis) for of_axis in by_axis]
    grid = ScaledGrid(
        kernel=(kernel[1], kernel[0]),
        stride=(stride[1], stride[0]),
        pad_begin=(padding[1][0], padding[0][0]),
        dilation=(dilation[1], dilation[0]),
        scale=checked.offset_scale,
        remove_center=settings.remove_center,
    )
    if not grid.taps:
        raise ValueError("kernel_size 1 without its centre has no tap; keep the centre")
    return (height, width), grid


def _sizes(input: Shape, out: tuple[int, int], groups: int, grid: ScaledGrid) -> SumGeometry:
    batch, height, width, channels = input
    if channels % groups:
        raise ValueError(
            f"groups = {groups} must divide C = {channels}, got input of shape {input}"
        )
    level = Level(0, height, width, grid.taps)
    return SumGeometry(batch, groups, channels // groups, out, (level,), grid)


# ---- both ----------------------------------------------------------------------------------------


def _plain(shapes: Operands) -> list[Any]:
    return [tuple(shape) for shape in shapes if shape is not None]


def _check_rank(name: str, rule: str, shape: Shape, rank: int) -> None:
    if len(shape) != rank:
        raise ValueError(f"{name} must have shape {rule}, got {shape}")
