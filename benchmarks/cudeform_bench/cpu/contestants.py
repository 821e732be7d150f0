"""The contestants on a CPU: cudeform, libraries of torch, and onnxruntime.

A contestant turns a problem into calls that can be timed. Conversions, sessions and graphs are
prepared before the calls. The NumPy results of a call share memory with the library's own results.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

from numpy.typing import NDArray

import cudeform
from cudeform_bench.configs import Problem
from cudeform_bench.convolutions import Convolution
from cudeform_bench.cpu.profile import shares
from cudeform_bench.peers import torch_calls
from cudeform_bench.peers.torch_calls import BACKWARD, BOTH, FORWARD
from cudeform_bench.sums import Sum

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


def cudeform_calls(problem: Problem, threads: int | None) -> Calls:
    """The operator of the problem and its backward on NumPy arrays."""
    config, operands = problem.config, problem.operands
    forward_of = getattr(cudeform, config.operator)
    backward_of = getattr(cudeform, f"{config.operator}_backward")

    def chosen() -> AbstractContextManager[Any]:
        return nullcontext() if threads is None else cudeform.options(num_threads=threads)

    def forward() -> Results:
        with chosen():
            return {"output": forward_of(**operands, **config.settings)}

    def backward() -> Results:
        with chosen():
            grads = backward_of(problem.grad_output, **operands, **config.settings)
        return {f"grad_{name}": grad for name, grad in grads._asdict().items()}

    return {FORWARD: forward, BACKWARD: backward, BOTH: lambda: forward() | backward()}


def cudeform_profile(problem: Problem, direction: str) -> dict[str, float]:
    """Fractions of the time of a convolution: product, sampling, rest; nothing of a sum."""
    if isinstance(problem.config, Sum):
        return {}
    return shares(cudeform_calls(problem, threads=1)[direction])


def torch_contestant(name: str) -> Contestant:
    """A library of torch, by its name in ``peers.torch_calls``."""

    def calls(problem: Problem, threads: int | None) -> Calls:
        if not torch_calls.computes(name, problem.config):
            return {}
        import torch

        if threads is not None:
            torch.set_num_threads(threads)
        function = torch_calls.FUNCTIONS[name]
        leaves = {
            operand: torch.from_numpy(array).requires_grad_()
            for operand, array in problem.operands.items()
        }
        of_torch = torch_calls.calls(
            lambda: function(problem.config, leaves), leaves, torch.from_numpy(problem.grad_output)
        )
        return {direction: partial(_as_arrays, call) for direction, call in of_torch.items()}

    return Contestant(calls, needs=torch_calls.NEEDS[name])


def _as_arrays(call: Callable[[], dict[str, Any]]) -> Results:
    return {name: tensor.numpy() for name, tensor in call().items()}


def onnxruntime_calls(problem: Problem, threads: int | None) -> Calls:
    """onnxruntime's operator DeformConv on the CPU, in two dimensions and without a backward.

    By default, onnxruntime's threads spin for a while after a call. Before timing the next
    contestant, the caller must wait until they sleep.
    """
    if problem.config.operator != "deform_conv2d":
        return {}
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        _onnx_model(problem), options, providers=["CPUExecutionProvider"]
    )
    feeds = {name: problem.operands[name] for name in ("input", "offset", "mask")}
    return {FORWARD: lambda: {"output": session.run(None, feeds)[0]}}


def _onnx_model(problem: Problem) -> bytes:
    """A model of one node, whose weight and bias are constants as in a trained model."""
    from onnx import TensorProto, helper, numpy_helper

    config = problem.config
    assert isinstance(config, Convolution)
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
        helper.make_tensor_value_info(name, TensorProto.FLOAT, problem.operands[name].shape)
        for name in ("input", "offset", "mask")
    ]
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, problem.grad_output.shape)
    constants = [
        numpy_helper.from_array(problem.operands[name], name) for name in ("weight", "bias")
    ]
    graph = helper.make_graph([node], "deform_conv", inputs, [output], constants)
    # The oldest opset with this operator: every onnxruntime that has the operator reads the model.
    opset = helper.make_opsetid("", 19)
    model: bytes = helper.make_model(graph, opset_imports=[opset], ir_version=9).SerializeToString()
    return model


CONTESTANTS: dict[str, Contestant] = {
    "cudeform": Contestant(cudeform_calls, profile=cudeform_profile),
    **{name: torch_contestant(name) for name in torch_calls.FUNCTIONS},
    "onnxruntime": Contestant(onnxruntime_calls, needs=("onnx", "onnxruntime")),
}


def absence(name: str) -> str | None:
    """The reason why a contestant cannot be measured; None if it can."""
    if name in torch_calls.FUNCTIONS:
        return torch_calls.absence(name)
    lacking = [package for package in CONTESTANTS[name].needs if find_spec(package) is None]
    if lacking:
        return f"{' and '.join(lacking)} not installed"
    if name == "onnxruntime":
        from onnxruntime import __version__

        if tuple(int(part) for part in __version__.split(".")[:2]) < (1, 25):
            return f"onnxruntime {__version__} has no DeformConv on the CPU, 1.25 is the first"
    return None
