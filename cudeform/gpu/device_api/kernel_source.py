"""The source text of a kernel: a prelude that defines types and widths, then files of ``kernels/``.

The files are concatenated instead of included, because the key of CuPy's cache of compiled kernels
is the source text, without the text of included files.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files

from cudeform.gpu.device_api.commands import Kernel
from cudeform.gpu.device_api.params import PARAMS
from cudeform.gpu.device_api.structs import StructType, c_text, depends_on_axes

SCALARS = {"float16": "half_t", "bfloat16": "bfloat16_t", "float32": "float", "float64": "double"}
ITEMSIZE = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}

_INDEXING = ("common/indexing.cuh",)
_AXES = (*_INDEXING, "common/axes.cuh")
_INTERPOLATION = (*_AXES, "sampling/interpolation.cuh")
_SAMPLING = (*_INTERPOLATION, "sampling/sample.cuh")
_RECORDS = (*_SAMPLING, "common/vector.cuh", "sampling/sample_record.cuh")
_COLUMNS = (*_RECORDS, "im2col/columns.cuh", "im2col/column_record.cuh")
_TANGENT = "sampling/sample_tangent.cuh"
_GRADS = "sampling/offset_mask_grads.cuh"
_DIRECT = (*_RECORDS, "direct/channel_slice.cuh")
_TENSOR_CORES = ("common/tensor_core_ptx.cuh", *_AXES)
_SUMS = "sums/sum_sample.cuh"
_LANES = (*_INTERPOLATION, "common/vector.cuh", _SUMS, "sums/sum_lanes.cuh")
_GEMM = ("fused/gemm_tile.cuh", "fused/schedule.cuh")

# The files of each kernel, in order. The last file contains the kernel and has its name.
FILES = {
    "channels_last": (*_AXES, "layout/transpose.cuh", "layout/channels_last.cu"),
    "channels_first": (*_INDEXING, "layout/transpose.cuh", "layout/channels_first.cu"),
    "pack_weight": (*_AXES, "layout/pack_weight.cu"),
    "unpack_weight": (*_INDEXING, "layout/unpack_weight.cu"),
    "add_arrays": (*_INDEXING, "layout/add_arrays.cu"),
    "deform_im2col": (*_COLUMNS, "im2col/deform_im2col.cu"),
    "deform_im2col_jvp": (*_COLUMNS, _TANGENT, "im2col/deform_im2col_jvp.cu"),
    "deform_backward": (*_COLUMNS, _GRADS, "backward/deform_backward.cu"),
    "deform_double_backward": (
        *(*_COLUMNS, _TANGENT, _GRADS),
        "backward/deform_double_backward.cu",
    ),
    "count_cells": (*_SAMPLING, _TANGENT, "grad_input_sorted/count_cells.cu"),
    "scan_cells": (*_INDEXING, "grad_input_sorted/scan_cells.cu"),
    "fill_cells": (*_INDEXING, "grad_input_sorted/fill_cells.cu"),
    "sort_cells": (*_INDEXING, "grad_input_sorted/sort_cells.cu"),
    "gather_grad_input": (
        *(*_AXES, "common/vector.cuh", "im2col/columns.cuh"),
        "grad_input_sorted/gather_grad_input.cu",
    ),
    "deform_direct": (*_DIRECT, "direct/deform_direct.cu"),
    "deform_direct_backward": (*_DIRECT, _GRADS, "direct/deform_direct_backward.cu"),
    "deform_direct_grad_weight": (*_DIRECT, "direct/deform_direct_grad_weight.cu"),
    "reduce_grad_weight": (*_INDEXING, "direct/reduce_grad_weight.cu"),
    "pack_weight_fused": (*_TENSOR_CORES, *_GEMM, "fused/pack_weight_fused.cu"),
    "deform_fused": (
        *(*_TENSOR_CORES, "sampling/interpolation.cuh", "sampling/sample.cuh"),
        *(*_GEMM, "fused/sampler.cuh"),
        "fused/deform_fused.cu",
    ),
    "reduce_split_k": (*_AXES, "fused/reduce_split_k.cu"),
    "deform_sum": (*_LANES, "sums/deform_sum.cu"),
}


@dataclass(frozen=True)
class GemmTile:
    """The GEMM tile of a block of the fused kernel.

    Attributes:
        m: number of positions.
        n: number of output channels.
        warps_m: number of warps along the positions.
        warps_n: number of warps along the output channels.
        blocks: number of blocks that should be resident on a multiprocessor.
        channel_block: number of channels that are sampled at all taps before the next channels.
        products: for float32, 1 for TF32 or 3 for 3xTF32, which is nearly as exact as float32.
    """

    m: int
    n: int
    warps_m: int
    warps_n: int
    blocks: int
    channel_block: int
    products: int = 1

    @property
    def threads(self) -> int:
        """Number of threads of a block."""
        return 32 * self.warps_m * self.warps_n

    @property
    def operand_terms(self) -> int:
        """Number of terms that represent an operand: two, hi and lo, for 3xTF32."""
        return 2 if self.products == 3 else 1


@dataclass(frozen=True)
class Variant:
    """The compile-time parameters of a kernel.

    Attributes:
        dtype: dtype of the arrays, a key of ``SCALARS``.
        index_bits: width of an index, 32 or 64.
        vector: number of channels of a 16-byte access, or 1 if such accesses are impossible.
        group_in: number of input channels of a group, for direct kernels.
        group_out: number of output channels of a group, for direct kernels.
        tile: tile of the fused kernel.
        atomic_width: number of contiguous elements of one atomic addition, 4 or 1.
        axes: number of spatial axes, 1 to 3.
        coord_dtype: dtype of offsets and masks, for sums; None for that of the other arrays.
    """

    dtype: str
    index_bits: int
    vector: int
    group_in: int = 0
    group_out: int = 0
    tile: GemmTile | None = None
    atomic_width: int = 1
    axes: int = 2
    coord_dtype: str | None = None

    @property
    def acc_itemsize(self) -> int:
        """Bytes of acc_t, the accumulation type."""
        return 8 if self.dtype == "float64" else 4


def widest(dtype: str) -> int:
    """Number of elements in 16 bytes."""
    return 16 // ITEMSIZE[dtype]


@cache
def kernel(name: str, variant: Variant) -> Kernel:
    """A kernel ready to compile.

    Parameters that its files do not use are reset, so that equal kernels have equal texts.
    """
    among = FILES[name]
    if "direct/channel_slice.cuh" not in among:
        variant = replace(variant, group_in=0, group_out=0)
    if "fused/gemm_tile.cuh" not in among:
        variant = replace(variant, tile=None)
    struct: StructType = PARAMS[name]
    if not depends_on_axes(struct):
        variant = replace(variant, axes=2)
    if not adds_atomically(name):
        variant = replace(variant, atomic_width=1)
    if not is_sum(name):
        variant = replace(variant, coord_dtype=None)
    parts = [_prelude(variant), read("common/ptx.cuh"), _types(name, variant), *map(read, among)]
    return Kernel(name, "\n".join(parts))


def is_sum(name: str) -> bool:
    """Whether a kernel sums samples, and so depends on ``coord_dtype`` and has two axes."""
    return _SUMS in FILES[name]


def adds_atomically(name: str) -> bool:
    """Whether a kernel adds vectors atomically to global memory, and so depends on
    ``atomic_width``."""
    return _GRADS in FILES[name]


@cache
def read(file: str) -> str:
    """Text of a file of ``kernels/``, with a #line directive for the compiler's messages."""
    text = files("cudeform.kernels").joinpath(file).read_text(encoding="utf-8")
    return f'#line 1 "{file}"\n{text}'


def _prelude(variant: Variant) -> str:
    constants = {
        "AXES": variant.axes,
        "VECTOR": variant.vector,
        "ATOMIC_WIDTH": variant.atomic_width,
    }
    if variant.group_in:
        constants |= {"GROUP_IN": variant.group_in, "GROUP_OUT": variant.group_out}
    if variant.tile is not None:
        constants |= _tile_constants(variant.tile, variant.dtype)
    lines = "".join(f"#define {name} {value}\n" for name, value in constants.items())
    return f'#line 1 "prelude"\n{lines}'


def _tile_constants(tile: GemmTile, dtype: str) -> dict[str, int]:
    return {
        "TILE_M": tile.m,
        "TILE_N": tile.n,
        "WARPS_M": tile.warps_m,
        "WARPS_N": tile.warps_n,
        "BLOCKS": tile.blocks,
        "CHANNEL_BLOCK": tile.channel_block,
        "PRODUCTS": tile.products,
        "ROUND_TO_TF32": int(dtype == "float32" and tile.products == 1),
    }


def _types(name: str, variant: Variant) -> str:
    acc = "double" if variant.dtype == "float64" else "float"
    coord = SCALARS[variant.coord_dtype or variant.dtype]
    return (
        '#line 1 "types"\n'
        f"typedef {SCALARS[variant.dtype]} scalar_t;\n"
        f"typedef {acc} acc_t;\n"
        f"{f'typedef {coord} coord_t;' if is_sum(name) else ''}"
        f"{c_text(PARAMS[name], variant.index_bits)}"
    )
