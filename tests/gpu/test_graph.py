"""CUDA graphs: a call is captured once and replayed on other contents, through CuPy and torch.

Workspace belongs to the graph: it comes from a pool that lives as long.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import Case, build

import cudeform
from cudeform.gpu import overrides
from cudeform.gpu.cuda.device import device_count

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(device_count() == 0, reason="needs a GPU and CuPy"),
]

PADDING = ((1, 1), (1, 1))
FUSED = build("fused", channels=64, size=(20, 24), out_channels=64, padding=PADDING)
DEPTHWISE = build(
    "depthwise", channels=64, size=(9, 11), out_channels=64, groups=64, padding=PADDING
)
NAMES = ("input", "offset", "weight", "bias", "mask", "grad_output")


def other_contents(case: Case) -> Case:
    rng = np.random.default_rng(3)
    return case.map(lambda array: rng.permutation(array.ravel()).reshape(array.shape))


def outputs(arrays: dict[str, Any], backward: bool) -> list[Any]:
    """Results of a call."""
    arguments = {name: array for name, array in arrays.items() if name != "grad_output"}
    if not backward:
        return [cudeform.deform_conv2d(**arguments, padding=PADDING)]
    grad_output = arrays["grad_output"]
    return list(cudeform.deform_conv2d_backward(grad_output, **arguments, padding=PADDING))


def on_cupy(case: Case, backward: bool) -> tuple[list[Any], list[Any]]:
    """Results of a replay on other contents, and of a plain call on these."""
    cupy = pytest.importorskip("cupy")
    arrays = {name: cupy.asarray(getattr(case, name)) for name in NAMES}
    stream, pool = cupy.cuda.Stream(non_blocking=True), cupy.cuda.MemoryPool()
    cupy.cuda.Device().synchronize()
    with stream, cupy.cuda.using_allocator(pool.malloc):
        outputs(arrays, backward)  # compiles
        stream.synchronize()
        stream.begin_capture()
        captured = outputs(arrays, backward)
        graph = stream.end_capture()
        for name, array in arrays.items():
            array.set(getattr(other_contents(case), name))
        for _ in range(3):
            graph.launch(stream)
        stream.synchronize()
        plain = outputs(arrays, backward)
        stream.synchronize()
    return [cupy.asnumpy(a) for a in captured], [cupy.asnumpy(a) for a in plain]


def on_torch(case: Case, backward: bool) -> tuple[list[Any], list[Any]]:
    """The same, through torch."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch finds no GPU")
    arrays = {name: torch.from_numpy(getattr(case, name)).cuda() for name in NAMES}
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        outputs(arrays, backward)  # compiles
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = outputs(arrays, backward)
    for name, array in arrays.items():
        array.copy_(torch.from_numpy(getattr(other_contents(case), name)))
    for _ in range(3):
        graph.replay()
    plain = outputs(arrays, backward)
    torch.cuda.synchronize()
    return [t.cpu().numpy() for t in captured], [t.cpu().numpy() for t in plain]


@pytest.mark.parametrize("through", [on_cupy, on_torch])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize(
    ("case", "path", "backward"),
    [
        (FUSED, "fused", False),
        (FUSED, "im2col", False),
        (FUSED, "im2col", True),
        (DEPTHWISE, "direct", False),
        (DEPTHWISE, "direct", True),
    ],
    ids=["fused", "columns", "columns, backward", "direct", "direct, backward"],
)
def test_a_replay_computes_what_is_there_now(
    case: Case, path: str, backward: bool, dtype: str, through: Callable[..., Any]
) -> None:
    with overrides.force(algorithm=path):
        captured, plain = through(case.cast(dtype), backward)
    for got, wanted in zip(captured, plain, strict=True):
        scale = float(abs(wanted.astype("float64")).max())
        tolerance = scale * (1e-5 if dtype == "float32" else 5e-3)  # sums have no fixed order
        np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance)
