"""The bytes that kernels load and store are those of the benchmark's model.

Samples all lie between four pixels, so that each of them reads four corners. Counted are vectors of
channels; single numbers, such as offsets, are not.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pytest
from cases import Case, build
from checks import needs_compiler
from hostcuda import HostDevice, Launched
from support.gpu_engine import backward, forward, geometry
from tiers import quick

from cudeform.gpu import overrides
from cudeform.gpu.algorithms.fused_tiling import STAGE_VECS, Tiling, tiling_for
from cudeform.gpu.call import THREADS
from cudeform.options import Options
from cudeform_bench.convolutions import Convolution
from cudeform_bench.gpu.model import MODES, RATES, floors_us

pytestmark = needs_compiler

PLAIN = Convolution("plain", 2, 32, (11, 13), 32, stride=2)
GROUPS = Convolution("groups", 2, 64, (11, 13), 32, stride=2, groups=2, offset_groups=2)
DEPTHWISE = Convolution("depthwise", 2, 32, (11, 13), 32, stride=2, groups=32)
UNITS_BYTES = 16 * STAGE_VECS  # of a row of a stage
EVERY_MODE = pytest.mark.parametrize("mode", quick(["fp32", "fp16", "bf16"], 1))


def case_of(config: Convolution) -> Case:
    """A configuration without padding, whose windows leave a row and a column."""
    case = build(
        config.name,
        batch=config.batch,
        channels=config.channels,
        size=tuple(size + 1 for size in config.size),
        out_channels=config.out_channels,
        stride=(2, 2),
        groups=config.groups,
        offset_groups=config.offset_groups,
        bias=False,
    )
    return replace(case, offset=np.clip(abs(case.offset) % 1, 0.125, 0.875))


@dataclass(frozen=True)
class Model:
    """Bytes, as ``gpu.model`` has them."""

    gather: int  # four corners of each sample
    columns: int  # a quarter of them: each element of the columns once
    scatter: int  # an addition in float32 for each corner

    @classmethod
    def of(cls, config: Convolution, mode: str) -> Model:
        # The case has no padding: as many outputs as a configuration whose image ends there.
        config = replace(config, size=tuple(size - 2 for size in config.size))
        floors = floors_us(config, MODES[mode], "backward")
        gather, added = (round(floors[n] * RATES[n] / 1e6) for n in ("gather", "scatter"))
        return cls(gather, gather // 4, added)


def bytes_moved(device: HostDevice, kernel: str) -> tuple[int, int, int]:
    """Bytes that a kernel loaded, stored and added in its one launch."""
    [did] = [d for d in device.log if isinstance(d, Launched) and d.kernel == kernel]
    return did.loaded, did.stored, did.added


def tiling_of(case: Case, device: HostDevice) -> tuple[Tiling, int]:
    """How the fused kernel cuts a case, and into how many blocks."""
    g, dtype = geometry(case), case.input.dtype.name
    products = 3 if dtype == "float32" else 1
    tiling = tiling_for(g, dtype, products, device.multiprocessors)
    return tiling, tiling.tiles(g.batch, g.out_rows) * tiling.strips


def launches(device: HostDevice) -> Counter[str]:
    return Counter(did.kernel if isinstance(did, Launched) else "product" for did in device.log)


# ---- forward -------------------------------------------------------------------------------------


@pytest.mark.each_value
@EVERY_MODE
@pytest.mark.parametrize("config", [PLAIN, GROUPS], ids=lambda config: config.name)
def test_columns(config: Convolution, mode: str) -> None:
    case, device = case_of(config).cast(MODES[mode].dtype), HostDevice()
    with overrides.force(algorithm="im2col"):
        forward(device, case)
    model = Model.of(config, mode)
    assert bytes_moved(device, "deform_im2col") == (model.gather, model.columns, 0)
    products = min(config.groups, config.batch)
    wanted = {"pack_weight": 1, "channels_last": 1, "deform_im2col": 1, "product": products}
    assert launches(device) == wanted


@EVERY_MODE
def test_direct(mode: str) -> None:
    case, device = case_of(DEPTHWISE).cast(MODES[mode].dtype), HostDevice()
    forward(device, case)
    model = Model.of(DEPTHWISE, mode)
    # A weight for each element that columns would have; outputs are stored a number at a time.
    assert bytes_moved(device, "deform_direct") == (model.gather + model.columns, 0, 0)
    assert launches(device) == {"channels_last": 2, "deform_direct": 1}


@pytest.mark.each_value
@EVERY_MODE
@pytest.mark.parametrize("out_channels", [32, 300])
def test_fused(out_channels: int, mode: str) -> None:
    config, device = replace(PLAIN, out_channels=out_channels), HostDevice(multiprocessors=1)
    case = case_of(config).cast(MODES[mode].dtype)
    with overrides.force(algorithm="fused"):
        forward(device, case)
    tiling, blocks = tiling_of(case, device)
    # Every strip of output channels samples anew; each block copies its strip of the weight once.
    samples = tiling.strips * Model.of(config, mode).gather
    weights = blocks * tiling.stages * tiling.tile.n * UNITS_BYTES * tiling.tile.operand_terms
    assert bytes_moved(device, "deform_fused") == (samples + weights, 0, 0)
    wanted = {"pack_weight_fused": 1, "channels_last": 1, "deform_fused": 1}
    if tiling.split_stages(device) < tiling.stages:
        wanted["reduce_split_k"] = 1
    assert launches(device) == wanted


# ---- backward ------------------------------------------------------------------------------------


@pytest.mark.each_value
@EVERY_MODE
@pytest.mark.parametrize("name", ["scalar", "vector"])
@pytest.mark.parametrize("config", [PLAIN, GROUPS], ids=lambda config: config.name)
def test_backward(config: Convolution, name: str, mode: str) -> None:
    case, device = case_of(config).cast(MODES[mode].dtype), HostDevice(compute_capability=90)
    with overrides.force(scatter=name):
        backward(device, case)
    model = Model.of(config, mode)
    # One pass: the gradient of the columns comes in, corners are read and added to once.
    assert bytes_moved(device, "deform_backward") == (
        model.columns + model.gather,
        model.columns,
        model.scatter,
    )


@pytest.mark.each_value
@EVERY_MODE
@pytest.mark.parametrize("config", [PLAIN, GROUPS, DEPTHWISE], ids=lambda config: config.name)
def test_the_gather_reads_columns_four_times_and_adds_nothing(
    config: Convolution, mode: str
) -> None:
    case, device = case_of(config).cast(MODES[mode].dtype), HostDevice()
    if config is DEPTHWISE:  # groups of one channel are not read as vectors
        config = replace(config, groups=2)
        case = case_of(config).cast(MODES[mode].dtype)
    backward(device, case, Options(deterministic=True))
    model = Model.of(config, mode)
    assert bytes_moved(device, "gather_grad_input") == (4 * model.columns, 0, 0)
    assert bytes_moved(device, "deform_backward")[2] == 0


@EVERY_MODE
def test_direct_backward(mode: str) -> None:
    case, device = case_of(DEPTHWISE).cast(MODES[mode].dtype), HostDevice()
    backward(device, case)
    model = Model.of(DEPTHWISE, mode)
    # A weight and a gradient of the output for each element that columns would have.
    pulled = (model.gather + 2 * model.columns, 0, model.scatter)
    assert bytes_moved(device, "deform_direct_backward") == pulled
    loaded, _, added = bytes_moved(device, "deform_direct_grad_weight")
    once = model.columns // DEPTHWISE.taps  # for the bias, the gradient of the output once more
    assert (loaded, added) == (model.gather + model.columns + once, 0)


# ---- shared memory -------------------------------------------------------------------------------


def test_plans_are_all_that_these_kernels_hold_in_shared_memory() -> None:
    """Geometry of a sample, once for all of its channels: bytes for each of them."""
    device = HostDevice()
    for config in (PLAIN, GROUPS, DEPTHWISE):
        case = case_of(config).cast("float32")
        with overrides.force(algorithm="direct" if config is DEPTHWISE else "im2col"):
            forward(device, case)
            backward(device, case)
    kernels = ("deform_im2col", "deform_backward", "deform_direct", "deform_direct_backward")
    shared = {d.kernel: d.shared_bytes for d in device.log if isinstance(d, Launched)}
    for kernel in kernels:
        assert shared[kernel] == THREADS * 48  # what a thread loads in three goes


@pytest.mark.parametrize("mode", quick(["fp32", "fp16"], 1))
def test_factors_pass_through_shared_memory_once_for_each_warp(mode: str) -> None:
    """Bytes that the fused kernel stores and loads there, beside the plans of its samples."""
    device = HostDevice(races=True, multiprocessors=1)
    case = case_of(PLAIN).cast(MODES[mode].dtype)
    with overrides.force(algorithm="fused"):
        forward(device, case)
    tiling, blocks = tiling_of(case, device)
    tile = tiling.tile
    stores, loads = tile.m + tile.n, tile.warps_n * tile.m + tile.warps_m * tile.n
    factors = blocks * tiling.stages * (stores + loads) * UNITS_BYTES * tile.operand_terms
    [did] = [d for d in device.log if isinstance(d, Launched) and d.kernel == "deform_fused"]
    # A plan has 17 bytes, which are stored once and loaded for each unit of channels.
    units = blocks * tile.m * tiling.stages * STAGE_VECS
    assert factors < did.in_shared < factors + units * 2 * 17
