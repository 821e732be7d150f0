"""The contestants on a GPU. All of them use torch's memory and current stream.

cudeform on tensors, cudeform on CuPy arrays, and torchvision compute the same results, which are
checked. cuDNN's ordinary convolution of the same shape and the matrix products alone compute
something else; their times serve as goals.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import cudeform
from cudeform_bench.configs import Config, Problem
from cudeform_bench.gpu.model import Mode

Tensor = Any
Results = dict[str, Tensor]
Calls = dict[str, Callable[[], Results]]  # by direction

ARGUMENTS = ("input", "offset", "weight", "bias", "mask")


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
    input: Tensor
    offset: Tensor
    weight: Tensor
    bias: Tensor
    mask: Tensor
    grad_output: Tensor

    @classmethod
    def of(cls, problem: Problem, dtype: str, device: str) -> Tensors:
        """Copy a problem to a device, in the torch dtype of this name."""
        import torch

        names = (*ARGUMENTS, "grad_output")
        tensors = {name: torch.from_numpy(getattr(problem, name)).to(device) for name in names}
        return cls(problem.config, **tensors).to(dtype)

    def to(self, dtype: str) -> Tensors:
        """The same values in another dtype."""
        import torch

        names = (*ARGUMENTS, "grad_output")
        cast = {name: getattr(self, name).to(getattr(torch, dtype)) for name in names}
        return Tensors(self.config, **cast)

    @property
    def arguments(self) -> dict[str, Tensor]:
        """The operands of the convolution."""
        return {name: getattr(self, name) for name in ARGUMENTS}


def set_tf32(allowed: bool) -> None:
    """Allow or forbid torch and cuDNN to round float32 operands of products to TF32."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed
    torch.backends.cudnn.benchmark = True  # cuDNN tries its algorithms and selects the fastest


def cudeform_calls(tensors: Tensors, mode: Mode) -> Calls:
    """cudeform on tensors."""
    return _our_calls(tensors.config, mode, tensors.arguments, tensors.grad_output)


def cupy_calls(tensors: Tensors, mode: Mode) -> Calls:
    """cudeform on CuPy arrays over the same memory; CuPy has no bfloat16."""
    if mode.dtype == "bfloat16":
        return {}
    import cupy

    arrays = {name: cupy.from_dlpack(tensor) for name, tensor in tensors.arguments.items()}
    return _our_calls(tensors.config, mode, arrays, cupy.from_dlpack(tensors.grad_output))


def _our_calls(config: Config, mode: Mode, arguments: dict[str, Any], grad_output: Any) -> Calls:
    sizes: dict[str, Any] = {"stride": config.stride, "padding": config.padding}

    def forward() -> Results:
        with cudeform.options(allow_tf32=mode.tf32):
            return {"output": cudeform.deform_conv2d(**arguments, **sizes)}

    def backward() -> Results:
        with cudeform.options(allow_tf32=mode.tf32):
            grads = cudeform.deform_conv2d_backward(grad_output, **arguments, **sizes)
        return {f"grad_{name}": grad for name, grad in grads._asdict().items()}

    return _three(forward, backward, lambda: forward() | backward())


def torchvision_calls(tensors: Tensors, mode: Mode) -> Calls:
    """``torchvision.ops.deform_conv2d``, in float32 for bfloat16, which it does not support."""
    import torch
    from torchvision.ops import deform_conv2d

    config, dtype = tensors.config, tensors.input.dtype
    plain = {name: tensor.detach().clone() for name, tensor in tensors.arguments.items()}
    leaves = {name: tensor.requires_grad_() for name, tensor in plain.items()}

    def output() -> Tensor:
        taken = leaves
        if dtype == torch.bfloat16:
            taken = {name: leaf.float() for name, leaf in leaves.items()}
        result = deform_conv2d(**taken, stride=config.stride, padding=config.padding)
        return result.to(dtype)

    return _autograd_calls(output, leaves, tensors.grad_output)


def convolution_calls(tensors: Tensors, mode: Mode) -> Calls:
    """An ordinary convolution by cuDNN, channels last."""
    import torch

    config = tensors.config
    last = {"memory_format": torch.channels_last}
    leaves = {
        "input": tensors.input.detach().clone(**last).requires_grad_(),
        "weight": tensors.weight.detach().clone(**last).requires_grad_(),
        "bias": tensors.bias.detach().clone().requires_grad_(),
    }

    def output() -> Tensor:
        return torch.nn.functional.conv2d(
            **leaves, stride=config.stride, padding=config.padding, groups=config.groups
        )

    return _autograd_calls(output, leaves, tensors.grad_output.contiguous(**last))


def product_calls(tensors: Tensors, mode: Mode) -> Calls:
    """The matrix products alone by cuBLAS, all groups in one batch."""
    import torch

    config = tensors.config
    positions = config.batch * config.out_height * config.out_width
    depth, width = _group_sizes(config)
    kind = {"dtype": tensors.input.dtype, "device": tensors.input.device}
    columns = torch.randn(config.groups, positions, depth, **kind)
    weight = torch.randn(config.groups, depth, width, **kind)
    grad_output = torch.randn(config.groups, positions, width, **kind)

    def forward() -> Results:
        return {"output": torch.matmul(columns, weight)}

    def backward() -> Results:
        return {
            "grad_columns": torch.matmul(grad_output, weight.mT),
            "grad_weight": torch.matmul(columns.mT, grad_output),
        }

    return _three(forward, backward, lambda: forward() | backward())


def _group_sizes(config: Config) -> tuple[int, int]:
    """Inner size (k) of a group's matrix product, and its number of output channels."""
    depth = config.taps * config.channels // config.groups
    return depth, config.out_channels // config.groups


def _autograd_calls(
    output: Callable[[], Tensor], leaves: dict[str, Tensor], grad_output: Tensor
) -> Calls:
    import torch

    def forward() -> Results:
        with torch.no_grad():
            return {"output": output()}

    def gradients(of: Tensor) -> Results:
        grads = torch.autograd.grad(of, list(leaves.values()), grad_output, retain_graph=True)
        return {f"grad_{name}": grad for name, grad in zip(leaves, grads, strict=True)}

    def both() -> Results:
        new = output()
        return {"output": new.detach()} | gradients(new)

    kept = cache(output)  # the untimed first call of the backward computes it
    return _three(forward, lambda: gradients(kept()), both)


def _three(forward: Any, backward: Any, both: Any) -> Calls:
    return {"forward": forward, "backward": backward, "both": both}


CONTESTANTS: dict[str, Callable[[Tensors, Mode], Calls]] = {
    "cudeform": cudeform_calls,
    "on CuPy": cupy_calls,
    "torchvision": torchvision_calls,
    "convolution": convolution_calls,
    "products": product_calls,
}

# Contestants that compute a deformable convolution; then those of them that must be right.
SAME = ("cudeform", "on CuPy", "torchvision")
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
