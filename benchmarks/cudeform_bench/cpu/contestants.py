"""The contestants on a CPU: cudeform, torchvision and onnxruntime.

A contestant turns a problem into calls that can be timed. Conversions, sessions and graphs are
prepared before the calls. The NumPy results of a call share memory with the library's own results.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

from numpy.typing import NDArray

import cudeform
from cudeform_bench.configs import Problem
from cudeform_bench.cpu.profile import shares

Results = dict[str, NDArray[Any]]  # "output", "grad_input", ...: the results that a call computes
Call = Callable[[], Results]
Calls = dict[str, Call]  # by direction; a contestant may lack a direction


@dataclass(frozen=True)
class Contestant:
    """A library to measure.

    Attributes:
        calls: function that makes the calls of a problem; the number of threads may be None for
            the library's default.
        needs: packages that must be installed.
        profile: function that gives the fraction of the time of each part, such as "product" and
            "sampling", for a problem and a direction; None if the library has no profile.
    """

    calls: Callable[[Problem, int | None], Calls]
    needs: tuple[str, ...] = ()
    profile: Callable[[Problem, str], dict[str, float]] | None = None


FORWARD, BACKWARD, BOTH = "forward", "backward", "both"

ARGUMENTS = ("input", "offset", "weight", "bias", "mask")


def cudeform_calls(problem: Problem, threads: int | None) -> Calls:
    """``cudeform.deform_conv2d`` and ``deform_conv2d_backward`` on NumPy arrays."""
    stride, padding = problem.config.stride, problem.config.padding
    arrays = {name: getattr(problem, name) for name in ARGUMENTS}

    def chosen() -> AbstractContextManager[Any]:
        return nullcontext() if threads is None else cudeform.options(num_threads=threads)

    def forward() -> Results:
        with chosen():
            output = cudeform.deform_conv2d(**arrays, stride=stride, padding=padding)
        return {"output": output}

    def backward() -> Results:
        with chosen():
            grads = cudeform.deform_conv2d_backward(
                problem.grad_output, **arrays, stride=stride, padding=padding
            )
        return {f"grad_{name}": grad for name, grad in grads._asdict().items()}

    return {FORWARD: forward, BACKWARD: backward, BOTH: lambda: forward() | backward()}


def cudeform_profile(problem: Problem, direction: str) -> dict[str, float]:
    """Fractions of the time of a call: product, sampling, rest."""
    return shares(cudeform_calls(problem, threads=1)[direction])


def torchvision_calls(problem: Problem, threads: int | None) -> Calls:
    """``torchvision.ops.deform_conv2d``, differentiated by autograd."""
    import torch
    from torchvision.ops import deform_conv2d

    if threads is not None:
        torch.set_num_threads(threads)
    config = problem.config
    tensors = {name: torch.from_numpy(getattr(problem, name)) for name in ARGUMENTS}
    grad_output = torch.from_numpy(problem.grad_output)
    for tensor in tensors.values():
        tensor.requires_grad_()

    def output() -> Any:
        return deform_conv2d(**tensors, stride=config.stride, padding=config.padding)

    def forward() -> Results:
        with torch.no_grad():
            return {"output": output().numpy()}

    def gradients(of: Any) -> Results:
        grads = torch.autograd.grad(of, list(tensors.values()), grad_output, retain_graph=True)
        return {f"grad_{name}": grad.numpy() for name, grad in zip(tensors, grads, strict=True)}

    def both() -> Results:
        new = output()
        return {"output": new.detach().numpy()} | gradients(new)

    kept = cache(output)  # the untimed first call of the backward computes it
    return {FORWARD: forward, BACKWARD: lambda: gradients(kept()), BOTH: both}


def onnxruntime_calls(problem: Problem, threads: int | None) -> Calls:
    """onnxruntime's operator DeformConv on the CPU, which has no backward.

    By default, onnxruntime's threads spin for a while after a call. Before timing the next
    contestant, the caller must wait until they sleep.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        _onnx_model(problem), options, providers=["CPUExecutionProvider"]
    )
    feeds = {name: getattr(problem, name) for name in ("input", "offset", "mask")}
    return {FORWARD: lambda: {"output": session.run(None, feeds)[0]}}


def _onnx_model(problem: Problem) -> bytes:
    """A model of one node, whose weight and bias are constants as in a trained model."""
    from onnx import TensorProto, helper, numpy_helper

    config = problem.config
    node = helper.make_node(
        "DeformConv",
        ["input", "weight", "offset", "bias", "mask"],
        ["output"],
        kernel_shape=[config.kernel] * 2,
        pads=[config.padding] * 4,
        strides=[config.stride] * 2,
        group=config.groups,
        offset_group=config.offset_groups,
    )
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, getattr(problem, name).shape)
        for name in ("input", "offset", "mask")
    ]
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, problem.grad_output.shape)
    constants = [
        numpy_helper.from_array(getattr(problem, name), name) for name in ("weight", "bias")
    ]
    graph = helper.make_graph([node], "deform_conv", inputs, [output], constants)
    # The oldest opset with this operator: every onnxruntime that has the operator reads the model.
    opset = helper.make_opsetid("", 19)
    model: bytes = helper.make_model(graph, opset_imports=[opset], ir_version=9).SerializeToString()
    return model


CONTESTANTS: dict[str, Contestant] = {
    "cudeform": Contestant(cudeform_calls, profile=cudeform_profile),
    "torchvision": Contestant(torchvision_calls, needs=("torch", "torchvision")),
    "onnxruntime": Contestant(onnxruntime_calls, needs=("onnx", "onnxruntime")),
}


def absence(name: str) -> str | None:
    """The reason why a contestant cannot be measured; None if it can."""
    lacking = [package for package in CONTESTANTS[name].needs if find_spec(package) is None]
    if lacking:
        return f"{' and '.join(lacking)} not installed"
    if name == "onnxruntime":
        from onnxruntime import __version__

        if tuple(int(part) for part in __version__.split(".")[:2]) < (1, 25):
            return f"onnxruntime {__version__} has no DeformConv on the CPU, 1.25 is the first"
    return None
