"""The parameters of each kernel: the struct that it takes by value, after its pointers."""

from __future__ import annotations

from cudeform.gpu.device_api import conv_params, sums_params
from cudeform.gpu.device_api.structs import Struct

PARAMS: dict[str, type[Struct]] = {
    "channels_last": conv_params.ChannelsLast,
    "channels_first": conv_params.ChannelsFirst,
    "pack_weight": conv_params.PackWeight,
    "unpack_weight": conv_params.UnpackWeight,
    "add_arrays": conv_params.AddArrays,
    "deform_im2col": conv_params.Im2col,
    "deform_im2col_jvp": conv_params.Im2colJvp,
    "deform_backward": conv_params.Backward,
    "deform_double_backward": conv_params.DoubleBackward,
    "count_cells": conv_params.CountCells,
    "scan_cells": conv_params.ScanCells,
    "fill_cells": conv_params.FillCells,
    "sort_cells": conv_params.SortCells,
    "gather_grad_input": conv_params.GatherGradInput,
    "deform_direct": conv_params.Direct,
    "deform_direct_backward": conv_params.DirectBackward,
    "deform_direct_grad_weight": conv_params.DirectGradWeight,
    "reduce_grad_weight": conv_params.ReduceGradWeight,
    "pack_weight_fused": conv_params.PackWeightFused,
    "deform_fused": conv_params.Fused,
    "reduce_split_k": conv_params.ReduceSplitK,
    "deform_sum": sums_params.SumForward,
    "deform_sum_backward": sums_params.SumBackward,
    "deform_sum_jvp": sums_params.SumJvp,
    "deform_sum_double_backward": sums_params.SumDoubleBackward,
    "count_sum_cells": sums_params.CountSumCells,
    "gather_sum_grad_input": sums_params.GatherSumGradInput,
    "round_grad_input": sums_params.RoundGradInput,
}
