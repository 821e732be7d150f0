"""The calls of a library of torch, by direction: its function, differentiated by autograd."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

from cudeform_bench.configs import Config
from cudeform_bench.convolutions import Convolution
from cudeform_bench.sums import Sum

Tensor = Any
Results = dict[str, Tensor]  # "output", "grad_input", ...: the results that a call computes
Calls = dict[str, Callable[[], Results]]  # by direction

FORWARD, BACKWARD, BOTH = "forward", "backward", "both"

# Computes the output of a configuration from its operands, by name.
Function = Callable[[Config, dict[str, Tensor]], Tensor]


def torchvision(config: Config, operands: dict[str, Tensor]) -> Tensor:
    """``torchvision.ops.deform_conv2d``."""
    from torchvision.ops import deform_conv2d

    assert isinstance(config, Convolution)
    return deform_conv2d(**operands, stride=config.stride, padding=config.padding)


def tvdcn(config: Config, operands: dict[str, Tensor]) -> Tensor:
    """The operator of the same name in ``tvdcn.ops``."""
    from tvdcn import ops

    assert isinstance(config, Convolution)
    settings = {"dilation": 1, "groups": config.groups} | config.settings
    if config.transposed:
        settings |= {"output_padding": 0}
    groups = settings.pop("groups")
    sizes = {name: (value,) * config.axes for name, value in settings.items()}
    return getattr(ops, config.operator)(**operands, **sizes, groups=groups)


def composition(config: Config, operands: dict[str, Tensor]) -> Tensor:
    """``grid_sample``, and a matrix product or a sum."""
    from cudeform_bench.peers import composition, sum_composition

    if isinstance(config, Sum):
        return sum_composition.output(config, operands)
    return composition.output(config, **operands)


def compiled_composition(config: Config, operands: dict[str, Tensor]) -> Tensor:
    """The composition of a sum by ``torch.compile``."""
    from cudeform_bench.peers.sum_composition import compiled_output

    assert isinstance(config, Sum)
    return compiled_output(config, operands)


COMPILED = "compiled grid_sample"

# By name of the contestant.
FUNCTIONS: dict[str, Function] = {
    "torchvision": torchvision,
    "tvdcn": tvdcn,
    "grid_sample": composition,
    COMPILED: compiled_composition,
}

NEEDS = {
    "torchvision": ("torch", "torchvision"),
    "tvdcn": ("torch", "tvdcn"),
    "grid_sample": ("torch",),
    COMPILED: ("torch",),
}


def computes(name: str, config: Config) -> bool:
    """Whether the contestant of this name is measured in a configuration."""
    if isinstance(config, Sum):
        return name in ("grid_sample", COMPILED)
    if config.operator == "deform_conv2d":
        return name == "torchvision"
    return name in ("tvdcn", "grid_sample")


def absence(name: str) -> str | None:
    """The reason why a contestant cannot be measured; None if it can."""
    lacking = [package for package in NEEDS[name] if find_spec(package) is None]
    if lacking:
        return f"{' and '.join(lacking)} not installed"
    if name == COMPILED and shutil.which(os.environ.get("CXX", "g++")) is None:
        return "torch.compile finds no C++ compiler"
    return _broken_tvdcn() if name == "tvdcn" else None


def _broken_tvdcn() -> str | None:
    """Why the compiled part of tvdcn does not load: it is built for one version of torch."""
    try:
        import tvdcn
    except (ImportError, OSError, RuntimeError) as error:
        return f"tvdcn cannot be imported: {' '.join(str(error).split())[:100]}"
    if not tvdcn.has_ops():
        import torch

        return f"this build of tvdcn has no operators for torch {torch.__version__}"
    return None


def calls(output: Callable[[], Tensor], leaves: dict[str, Tensor], grad_output: Tensor) -> Calls:
    """The calls of a function.

    Args:
        output: computes the output from ``leaves``.
        leaves: tensors that require a gradient, by name.
        grad_output: gradient of the output.
    """
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
    return {FORWARD: forward, BACKWARD: lambda: gradients(kept()), BOTH: both}
