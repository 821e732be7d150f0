"""The contestants on a GPU. All of them use torch's memory and current stream.

cudeform on tensors, cudeform on CuPy arrays, and the libraries of torch compute the same results,
which are checked. cuDNN's ordinary convolution of the same shape and the matrix products alone
compute something else; their times serve as goals.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cudeform
from cudeform_bench.configs import Config, Problem
from cudeform_bench.convolutions import Convolution
from cudeform_bench.gpu.model import Mode
from cudeform_bench.peers import torch_calls
from cudeform_bench.peers.torch_calls import BACKWARD, BOTH, FORWARD, Calls, Results, Tensor
from cudeform_bench.sums import Sum


class TorchClock:
    """The ``timing.Clock`` of torch's current GPU.

    Args:
        flush_bytes: number of bytes to write in order to flush the cache.
        cycles_per_second: upper bound of the GPU's clock rate.
    """

    def __init__(self, flush_bytes: int = 2**28, cycles_per_second: float = 2e9) -> None:
        import torch

        self._torch = torch
        self._cycles_per_second = cycles_per_second
        self._filler = torch.empty(flush_bytes, dtype=torch.uint8, device="cuda")

    def flush(self) -> None:
        """Write more bytes than the L2 cache holds."""
        self._filler.zero_()

    def occupy(self, seconds: float) -> None:
        """Queue a kernel that spins."""
        self._torch.cuda._sleep(int(seconds * self._cycles_per_second))

    def record(self) -> Any:
        """Queue an event."""
        event = self._torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def elapsed_ms(self, first: Any, second: Any) -> float:
        """Milliseconds between two events."""
        return float(first.elapsed_time(second))

    def wait(self) -> None:
        """Synchronise with the device."""
        self._torch.cuda.synchronize()

    def reset_peak(self) -> int:
        """Reset the peak of torch's allocator; return the bytes in use."""
        self._torch.cuda.reset_peak_memory_stats()
        return int(self._torch.cuda.memory_allocated())

    def peak(self) -> int:
        """Peak of the bytes in use since the reset."""
        return int(self._torch.cuda.max_memory_allocated())


@dataclass(frozen=True)
class Tensors:
    """A configuration and its arrays as tensors."""

    config: Config
    operands: dict[str, Tensor]
    grad_output: Tensor

    @classmethod
    def of(cls, problem: Problem, dtype: str, device: str) -> Tensors:
        """Copy a problem to a device, in the torch dtype of this name."""
        import torch

        def on_device(array: Any) -> Tensor:
            return torch.from_numpy(array).to(device)

        operands = {name: on_device(array) for name, array in problem.operands.items()}
        return cls(problem.config, operands, on_device(problem.grad_output)).to(dtype)

    def to(self, dtype: str) -> Tensors:
        """The same values in another dtype."""
        import torch

        kind = getattr(torch, dtype)
        operands = {name: tensor.to(kind) for name, tensor in self.operands.items()}
        return Tensors(self.config, operands, self.grad_output.to(kind))


def set_tf32(allowed: bool) -> None:
    """Allow or forbid torch and cuDNN to round float32 operands of products to TF32."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed
    torch.backends.cudnn.benchmark = True  # cuDNN tries its algorithms and selects the fastest


def cudeform_calls(tensors: Tensors, mode: Mode) -> Calls:
    """cudeform on tensors."""
    return _our_calls(tensors.config, mode, tensors.operands, tensors.grad_output)


def cupy_calls(tensors: Tensors, mode: Mode) -> Calls:
    """cudeform on CuPy arrays over the same memory; CuPy has no bfloat16."""
    if mode.dtype == "bfloat16":
        return {}
    import cupy

    arrays = {name: cupy.from_dlpack(tensor) for name, tensor in tensors.operands.items()}
    return _our_calls(tensors.config, mode, arrays, cupy.from_dlpack(tensors.grad_output))


def _our_calls(config: Config, mode: Mode, operands: dict[str, Any], grad_output: Any) -> Calls:
    forward_of = getattr(cudeform, config.operator)
    backward_of = getattr(cudeform, f"{config.operator}_backward")

    def forward() -> Results:
        with cudeform.options(allow_tf32=mode.tf32):
            return {"output": forward_of(**operands, **config.settings)}

    def backward() -> Results:
        with cudeform.options(allow_tf32=mode.tf32):
            grads = backward_of(grad_output, **operands, **config.settings)
        return {f"grad_{name}": grad for name, grad in grads._asdict().items()}

    return _three(forward, backward, lambda: forward() | backward())


def torch_contestant(name: str) -> Callable[[Tensors, Mode], Calls]:
    """A library of torch, by its name in ``peers.torch_calls``.

    It computes in float32 for bfloat16, which torchvision and tvdcn do not support.
    """

    def calls(tensors: Tensors, mode: Mode) -> Calls:
        config, function = tensors.config, torch_calls.FUNCTIONS[name]
        if not torch_calls.computes(name, config):
            return {}
        import torch

        plain = {operand: of.detach().clone() for operand, of in tensors.operands.items()}
        leaves = {operand: of.requires_grad_() for operand, of in plain.items()}
        dtype = tensors.grad_output.dtype

        def output() -> Tensor:
            taken = leaves
            if dtype == torch.bfloat16:
                taken = {operand: leaf.float() for operand, leaf in leaves.items()}
            return function(config, taken).to(dtype)

        return torch_calls.calls(output, leaves, tensors.grad_output)

    return calls


def convolution_calls(tensors: Tensors, mode: Mode) -> Calls:
    """An ordinary convolution by cuDNN, channels last where torch has such a layout."""
    import torch

    config = tensors.config
    if isinstance(config, Sum):
        return {}
    layouts = {2: torch.channels_last, 3: torch.channels_last_3d}
    last = {"memory_format": layouts.get(config.axes, torch.contiguous_format)}
    leaves = {
        "input": tensors.operands["input"].detach().clone(**last).requires_grad_(),
        "weight": tensors.operands["weight"].detach().clone(**last).requires_grad_(),
        "bias": tensors.operands["bias"].detach().clone().requires_grad_(),
    }
    kind = "conv_transpose" if config.transposed else "conv"
    function = getattr(torch.nn.functional, f"{kind}{config.axes}d")

    def output() -> Tensor:
        return function(**leaves, **{"groups": config.groups, **config.settings})

    return torch_calls.calls(output, leaves, tensors.grad_output.contiguous(**last))


def product_calls(tensors: Tensors, mode: Mode) -> Calls:
    """The matrix products alone by cuBLAS, all groups in one batch."""
    import torch

    config = tensors.config
    if isinstance(config, Sum):
        return {}
    depth, width = _group_sizes(config)
    kind = {"dtype": tensors.grad_output.dtype, "device": tensors.grad_output.device}
    left = torch.randn(config.groups, config.positions, depth, **kind)
    weight = torch.randn(config.groups, depth, width, **kind)
    grad = torch.randn(config.groups, config.positions, width, **kind)

    def forward() -> Results:
        return {"product": torch.matmul(left, weight)}

    def backward() -> Results:
        return {
            "grad_left": torch.matmul(grad, weight.mT),
            "grad_weight": torch.matmul(left.mT, grad),
        }

    return _three(forward, backward, lambda: forward() | backward())


def _group_sizes(config: Convolution) -> tuple[int, int]:
    """Inner size (k) of a group's matrix product, and the number of its columns.

    A convolution multiplies columns by the filter; a transposed one multiplies the input by the
    filter, which gives columns.
    """
    channels, out_channels = config.channels // config.groups, config.out_channels // config.groups
    if config.transposed:
        return channels, config.taps * out_channels
    return config.taps * channels, out_channels


def _three(forward: Any, backward: Any, both: Any) -> Calls:
    return {FORWARD: forward, BACKWARD: backward, BOTH: both}


CONTESTANTS: dict[str, Callable[[Tensors, Mode], Calls]] = {
    "cudeform": cudeform_calls,
    "on CuPy": cupy_calls,
    **{name: torch_contestant(name) for name in torch_calls.FUNCTIONS},
    "convolution": convolution_calls,
    "products": product_calls,
}

# Contestants that compute a deformable convolution; then those of them that must be right.
SAME = ("cudeform", "on CuPy", *torch_calls.FUNCTIONS)
OURS = {"cudeform", "on CuPy"}

# Contestants whose memory does not come from torch's allocator.
ELSEWHERE = {"on CuPy"}


def largest_error(results: Results, exact: Results) -> float:
    """Largest difference from the exact results, relative to the largest element of each."""
    import torch

    errors = []
    for name, expected in exact.items():
        result = torch.from_dlpack(results[name]).to(torch.float64)
        difference = (result - expected).abs().max()
        errors.append(float(difference / expected.abs().max().clamp_min(1e-300)))
    return float("nan") if any(error != error for error in errors) else max(errors)


def nbytes(results: Results) -> int:
    """Size of all results in bytes."""
    return sum(int(result.nbytes) for result in results.values())
