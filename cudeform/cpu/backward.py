"""Backward: the gradient of a tile's columns, and from it those of all that they came from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cudeform.arrays import Gradients, Operands
from cudeform.cpu.blas import single_threaded
from cudeform.cpu.call import Array, Call, Table
from cudeform.cpu.panels import Gain, Panel, Sums, work_through
from cudeform.cpu.products import grad_columns_of
from cudeform.cpu.tiles import Tile
from cudeform.cpu.workspace import backward_plan
from cudeform.geometry import Geometry
from cudeform.options import Options


def backward(
    operands: Operands, g: Geometry, options: Options, grad_output: Array, grads: Gradients
) -> None:
    """Write the gradients of ``sum(grad_output * output)`` into the arrays of ``grads``."""
    call = Call.of(operands, g, options, backward_plan)
    sums = Sums.zero(
        call,
        weight=grads.weight is not None,
        bias=grads.bias is not None,
        rows=grads.input is not None,
    )
    with single_threaded():
        for table in call.tables(operands.input):

            def work(tile: Tile, panel: Panel, table: Table = table) -> Iterator[Gain]:
                return _tile(call, table, tile, panel, grads)

            sums.begin(table)
            work_through(call, table, grad_output, sums, work)
            sums.write_images(call, table, grads.input)
    sums.write_rest(call, grads.weight, grads.bias)


def _tile(call: Call, table: Table, tile: Tile, panel: Panel, grads: Gradients) -> Iterator[Gain]:
    at = call.samples(table, tile)
    if panel.columns is not None:
        panel.columns[...] = call.columns(at, table)
    if grads.input is grads.offset is grads.mask is None:
        return
    grad_columns = grad_columns_of(call.g, call.weight, panel.grad_output).reshape(
        len(at), call.g.channels // call.g.offset_groups
    )
    if not (grads.offset is grads.mask is None):
        dots = at.corner_dots(table.rows, grad_columns)
        if grads.offset is not None:
            write_offset(call, tile, at.grad_offset(dots, call.options.boundary_grad), grads.offset)
        if grads.mask is not None:
            write_mask(call, tile, at.grad_mask(dots), grads.mask)
    if grads.input is not None:
        yield at.scatter(grad_columns, len(table.rows))


def write_offset(call: Call, tile: Tile, grad_y_x: tuple[Array, Array], grad_offset: Array) -> None:
    """Write a tile's gradient of the offset, given in the order of the samples."""
    g = call.g
    pairs = grad_offset.reshape(g.batch, g.offset_groups, g.taps, 2, g.out_h, g.out_w)
    for which, grad in enumerate(grad_y_x):
        part: Any = pairs[tile.images, :, :, which, tile.rows, tile.cols]
        part[...] = tile.planes(grad, g.taps, g.offset_groups)


def write_mask(call: Call, tile: Tile, grad: Array, grad_mask: Array) -> None:
    """Write a tile's gradient of the mask, given in the order of the samples."""
    g = call.g
    planes = grad_mask.reshape(g.batch, g.offset_groups, g.taps, g.out_h, g.out_w)
    part = planes[tile.images, :, :, tile.rows, tile.cols]
    part[...] = tile.planes(grad, g.taps, g.offset_groups)
