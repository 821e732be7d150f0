"""What ``bench`` compares: cudeform and the libraries that people use today.

A contestant turns a problem into calls that can be timed. All preparation (conversions, sessions,
graphs) happens before, and what a call returns shares memory with what the library returned.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

from numpy.typing import NDArray

import cudeform
from cudeform.commands.bench_configs import Problem

Results = dict[str, NDArray[Any]]  # "output" and "grad_input", ..., as far as a call computes them
Call = Callable[[], Results]
Calls = dict[str, Call]  # by direction, as far as the contestant has it
Contestant = Callable[[Problem, int], Calls]  # the number is that of threads

FORWARD, BACKWARD, BOTH = "forward", "backward", "both"

ARGUMENTS = ("input", "offset", "weight", "bias", "mask")


def cudeform_calls(problem: Problem, threads: int) -> Calls:
    """This library."""
    stride, padding = problem.config.stride, problem.config.padding
    arrays = {name: getattr(problem, name) for name in ARGUMENTS}

    def forward() -> Results:
        with cudeform.options(num_threads=threads):
            output = cudeform.deform_conv2d(**arrays, stride=stride, padding=padding)
        return {"output": output}

    def backward() -> Results:
        with cudeform.options(num_threads=threads):
            grads = cudeform.deform_conv2d_backward(
                problem.grad_output, **arrays, stride=stride, padding=padding
            )
        return {f"grad_{name}": grad for name, grad in grads._asdict().items()}

    return {FORWARD: forward, BACKWARD: backward, BOTH: lambda: forward() | backward()}


def torchvision_calls(problem: Problem, threads: int) -> Calls:
    """``torchvision.ops.deform_conv2d``, differentiated by autograd."""
    import torch
    from torchvision.ops import deform_conv2d

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

    kept = cache(output)  # made once, before anything is timed, and only if it is needed
    return {FORWARD: forward, BACKWARD: lambda: gradients(kept()), BOTH: both}


def onnxruntime_calls(problem: Problem, threads: int) -> Calls:
    """The operator DeformConv on the CPU; it has no backward.

    Its threads are left to spin for a while after a call, as they do by default: whoever times must
    wait for them to rest before the next contestant.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        _onnx_model(problem), options, providers=["CPUExecutionProvider"]
    )
    feeds = {name: getattr(problem, name) for name in ("input", "offset", "mask")}
    return {FORWARD: lambda: {"output": session.run(None, feeds)[0]}}


def _onnx_model(problem: Problem) -> bytes:
    """A model of one operator, whose weight and bias are constants as in any trained model."""
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
    # The oldest versions with the operator: every onnxruntime that has it can read them.
    opset = helper.make_opsetid("", 19)
    model: bytes = helper.make_model(graph, opset_imports=[opset], ir_version=9).SerializeToString()
    return model


CONTESTANTS: dict[str, Contestant] = {
    "cudeform": cudeform_calls,
    "torchvision": torchvision_calls,
    "onnxruntime": onnxruntime_calls,
}

# What must be importable for a contestant to take part.
NEEDS = {"torchvision": ("torch", "torchvision"), "onnxruntime": ("onnx", "onnxruntime")}


def absence(contestant: str) -> str | None:
    """Why a contestant cannot take part; None where it can."""
    lacking = [name for name in NEEDS.get(contestant, ()) if find_spec(name) is None]
    if lacking:
        return f"{' and '.join(lacking)} not installed"
    if contestant == "onnxruntime":
        from onnxruntime import __version__

        if tuple(int(part) for part in __version__.split(".")[:2]) < (1, 25):
            return f"onnxruntime {__version__} has no DeformConv on the CPU, 1.25 is the first"
    return None
