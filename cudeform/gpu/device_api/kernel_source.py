"""Kernel text: the files of ``kernels/`` behind a prelude that fixes types and widths.

Files are joined as text, never included: CuPy's cache of compiled kernels knows the text it is
given and not the files that the text would include.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files

from cudeform.gpu.device_api.params import Layout
from cudeform.gpu.device_api.protocol import Kernel

SCALARS = {"float16": "half_t", "bfloat16": "bfloat16_t", "float32": "float", "float64": "double"}
ITEMSIZE = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}

# What each kernel is made of, in order; its own file comes last.
PARTS = {
    "channels_last": ("grid",),
    "channels_first": ("grid",),
    "pack_weight": ("grid",),
    "unpack_weight": ("grid",),
    "deform_im2col": ("grid", "sampling", "vector", "plan", "value"),
    "deform_backward": ("grid", "sampling", "vector", "plan", "grads"),
    "deform_im2col_jvp": ("grid", "sampling", "vector", "plan", "move", "moves"),
    "deform_double": ("grid", "sampling", "vector", "plan", "move", "moves", "grads"),
    "count_cells": ("grid", "sampling", "move"),
    "allot_cells": ("grid",),
    "list_cells": ("grid",),
    "order_cells": ("grid",),
    "deform_gather": ("grid", "sampling", "vector", "plan"),
    "deform_tiles": ("grid", "sampling", "vector", "plan", "window"),
    "deform_direct": ("grid", "sampling", "vector", "plan", "value", "unit"),
    "deform_direct_backward": ("grid", "sampling", "vector", "plan", "value", "unit", "grads"),
    "deform_direct_weight": ("grid", "sampling", "vector", "plan", "value", "unit"),
    "sum_parts": ("grid",),
    "pack_tiles": ("mma", "grid", "tile", "stages"),
    "deform_fused": ("mma", "grid", "sampling", "tile", "stages", "aims"),
    "sum_splits": ("grid",),
}

# Parts of kernels that add vectors to global memory.
ADDING = frozenset({"grads", "window"})


@dataclass(frozen=True)
class Tile:
    """What a block of the fused kernel multiplies at a time.

    Attributes:
        m: positions.
        n: output channels.
        warps_m: warps along the positions.
        warps_n: warps along the output channels.
        blocks: that a multiprocessor shall hold at a time.
        chunk: channels that are sampled tap by tap, before the next ones.
        products: for float32, 1 in TF32 or 3 for nearly all digits.
    """

    m: int
    n: int
    warps_m: int
    warps_n: int
    blocks: int
    chunk: int
    products: int = 1

    @property
    def threads(self) -> int:
        """Of a block."""
        return 32 * self.warps_m * self.warps_n

    @property
    def parts(self) -> int:
        """Parts of each factor, which are multiplied in turn."""
        return 2 if self.products == 3 else 1


@dataclass(frozen=True)
class Variant:
    """What is compiled in.

    Attributes:
        dtype: of the arrays, a key of ``SCALARS``.
        index_bits: 32 or 64, width of an index.
        vector: channels of a 16-byte access, or 1 where channels do not come in such runs.
        group_in: input channels of a group, for direct kernels.
        group_out: output channels of a group, for direct kernels.
        tile: of the fused kernel.
        adds: neighbours that one addition to global memory takes, 4 or 1.
    """

    dtype: str
    index_bits: int
    vector: int
    group_in: int = 0
    group_out: int = 0
    tile: Tile | None = None
    adds: int = 1

    @property
    def acc_itemsize(self) -> int:
        """Bytes of a number in arithmetic."""
        return 8 if self.dtype == "float64" else 4


def widest(dtype: str) -> int:
    """Elements in 16 bytes."""
    return 16 // ITEMSIZE[dtype]


@cache
def kernel(name: str, variant: Variant) -> Kernel:
    """A kernel ready to compile."""
    if "unit" not in PARTS[name]:
        variant = replace(variant, group_in=0, group_out=0)
    if "tile" not in PARTS[name]:
        variant = replace(variant, tile=None)
    if ADDING.isdisjoint(PARTS[name]):
        variant = replace(variant, adds=1)
    parts = [_prelude(variant), read("intrinsics.cuh"), _types(variant)]
    parts += [read(f"{part}.cuh") for part in PARTS[name]]
    return Kernel(name, "\n".join([*parts, read(f"{name}.cu")]))


@cache
def read(file: str) -> str:
    """Text of a file of ``kernels/``, with its name for the compiler's messages."""
    text = files("cudeform.kernels").joinpath(file).read_text(encoding="utf-8")
    return f'#line 1 "{file}"\n{text}'


def _prelude(variant: Variant) -> str:
    constants = {"VECTOR": variant.vector, "ADDS": variant.adds}
    if variant.group_in:
        constants |= {"GROUP_IN": variant.group_in, "GROUP_OUT": variant.group_out}
    if variant.tile is not None:
        constants |= _tile_constants(variant.tile, variant.dtype)
    lines = "".join(f"#define {name} {value}\n" for name, value in constants.items())
    return f'#line 1 "prelude"\n{lines}'


def _tile_constants(tile: Tile, dtype: str) -> dict[str, int]:
    return {
        "TILE_M": tile.m,
        "TILE_N": tile.n,
        "WARPS_M": tile.warps_m,
        "WARPS_N": tile.warps_n,
        "BLOCKS": tile.blocks,
        "CHUNK": tile.chunk,
        "PRODUCTS": tile.products,
        "ROUNDS": int(dtype == "float32" and tile.products == 1),  # to TF32
    }


def _types(variant: Variant) -> str:
    acc = "double" if variant.dtype == "float64" else "float"
    return (
        '#line 1 "types"\n'
        f"typedef {SCALARS[variant.dtype]} scalar_t;\n"
        f"typedef {acc} acc_t;\n"
        f"{Layout(variant.index_bits).text()}"
    )
