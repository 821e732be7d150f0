"""Forward: sample a tile's columns, multiply them by the weight, write the output."""

from __future__ import annotations

from functools import partial

from cudeform.arrays import Operands
from cudeform.cpu.blas import single_threaded
from cudeform.cpu.call import Array, Call, Table
from cudeform.cpu.products import output_of
from cudeform.cpu.tiles import Tile
from cudeform.cpu.workspace import forward_plan
from cudeform.geometry import Geometry
from cudeform.options import Options


def forward(operands: Operands, g: Geometry, options: Options, output: Array) -> None:
    """Write the deformable convolution of ``operands`` into ``output``."""
    call = Call.of(operands, g, options, forward_plan)
    with single_threaded():
        for table in call.tables(operands.input):
            call.do(partial(_tile, call, table, output), call.tiles(table))


def _tile(call: Call, table: Table, output: Array, tile: Tile) -> None:
    columns = call.columns(call.samples(table, tile), table)
    result = output_of(call.g, call.weight, columns)
    if call.operands.bias is not None:
        result += call.operands.bias.astype(call.dtype)[:, None]
    output[tile.box] = result.reshape(call.g.out_channels, *tile.shape).swapaxes(0, 1)
