"""The real CuPy, which imports without a GPU, has every name and signature that cudeform uses.

The uses are found in cudeform's own text (``support/cupy_uses.py``), so none is missing as far as
CuPy can be followed there. ``KNOWN`` lists those up to which it must be followed.
"""

from __future__ import annotations

import inspect
import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.cupy_stand_in import Cuda, CupyStandIn
from support.cupy_uses import Use, uses_in, uses_of_cudeform

from cudeform.gpu.cuda import cublas, device

cupy = pytest.importorskip("cupy")

# One for each way of using a name.
USES = {(use.path, use.positional, use.keywords): use for use in reversed(uses_of_cudeform())}

# Objects or classes that stand for what a call returns or an attribute holds.
RESULTS = {
    "cupy.RawKernel()": cupy.RawKernel,
    "cupy.RawKernel().kernel": cupy.cuda.Function,
    "cupy.cuda.Device()": cupy.cuda.Device,
    "cupy.cuda.alloc()": cupy.cuda.MemoryPointer,
    "cupy.cuda.get_current_stream()": cupy.cuda.Stream.null,
    "cupy.cuda.Stream.from_external()": cupy.cuda.Stream.null,
    "cupy.ndarray()": cupy.ndarray,
    "cupy.ndarray().data": cupy.cuda.MemoryPointer,
    "cupy.ndarray().device": cupy.cuda.Device,
    "cupy.ndarray().dtype": np.dtype,
}

# Uses that must be among those that were found.
KNOWN = {
    "cupy.is_available",
    "cupy.empty",
    "cupy.from_dlpack",
    "cupy.RawKernel",
    "cupy.RawKernel().kernel.ptr",
    "cupy.RawKernel().max_dynamic_shared_size_bytes",
    "cupy.cuda.Device().compute_capability",
    "cupy.cuda.Device().__enter__",
    "cupy.cuda.Stream.from_external",
    "cupy.cuda.alloc().ptr",
    "cupy.cuda.get_current_stream().ptr",
    "cupy.cuda.driver.launchKernel",
    "cupy.cuda.device.get_cublas_handle",
    "cupy.cuda.cublas.gemmStridedBatchedEx",
    "cupy.cuda.cublas.getMathMode",
    "cupy.cuda.cublas.setMathMode",
    "cupy.cuda.cublas.getVersion",
    "cupy.cuda.runtime.deviceGetAttribute",
    "cupy.cuda.runtime.memGetInfo",
    "cupy.cuda.runtime.memsetAsync",
    "cupy.ndarray().data.ptr",
    "cupy.ndarray().device.id",
    "cupy.ndarray().strides",
}

# Parameters, in order, of the functions that take many numbers.
LAUNCH = (
    "f grid_dim_x grid_dim_y grid_dim_z block_dim_x block_dim_y block_dim_z shared_mem_bytes "
    "stream kernel_params extra"
)
GEMM = (
    "handle transa transb m n k alpha A Atype lda strideA B Btype ldb strideB beta C Ctype ldc "
    "strideC batchCount computeType algo"
)


@pytest.mark.parametrize("use", USES.values(), ids=lambda use: f"{use.path} in {use.location}")
def test_cupy_has_what_cudeform_uses(use: Use) -> None:
    check(use)


def test_the_uses_that_matter_are_found() -> None:
    assert {use.path for use in USES.values()} >= KNOWN


def check(use: Use) -> None:
    found = real(use.path)
    if use.positional is not None:
        signature_of(found).bind(*[None] * use.positional, **dict.fromkeys(use.keywords))


def real(path: str) -> Any:
    """What stands at a path.

    Raises:
        AttributeError: CuPy has no such name.
    """
    if path == "cupy":
        return cupy
    if path in RESULTS:
        return RESULTS[path]
    assert not path.endswith("()"), f"say in RESULTS what {path} returns"
    base, _, name = path.rpartition(".")
    return getattr(real(base), name)


def signature_of(function: Any) -> inspect.Signature:
    """Signature of a function, or of a class; Cython writes it into the docstring."""
    try:
        return inspect.signature(function)
    except ValueError:
        text = re.match(r"\w+\((.*?)\)( ->.*)?$", function.__doc__, re.MULTILINE)
        assert text is not None, f"no signature in {function.__doc__!r}"
        return signature_from(text[1])


def signature_from(text: str) -> inspect.Signature:
    """``intptr_t handle, int mode=0, *, bool flag=False`` as a signature."""
    kind, parameters = inspect.Parameter.POSITIONAL_OR_KEYWORD, []
    for parameter in re.split(r",\s*(?![^(]*\))", text) if text else ():
        if parameter == "*":
            kind = inspect.Parameter.KEYWORD_ONLY
            continue
        declared, equals, _ = parameter.partition("=")
        default = None if equals else inspect.Parameter.empty
        parameters.append(inspect.Parameter(declared.split()[-1], kind, default=default))
    return inspect.Signature(parameters)


def test_launches_and_products_pass_their_arguments_in_order() -> None:
    assert list(signature_of(cupy.cuda.driver.launchKernel).parameters) == LAUNCH.split()
    multiply = signature_of(cupy.cuda.cublas.gemmStridedBatchedEx)
    assert list(multiply.parameters) == GEMM.split()
    assert len(multiply.parameters) == len(cublas.MULTIPLY)
    memset = signature_of(cupy.cuda.runtime.memsetAsync)
    assert list(memset.parameters) == ["ptr", "value", "size", "stream"]


def test_cupy_has_all_names_of_the_stand_in() -> None:
    def compare(stand_in: Any, module: Any, path: str) -> None:
        for name, value in vars(stand_in).items():
            if name.startswith("_"):
                continue
            assert hasattr(module, name), f"{path}.{name}"
            if isinstance(value, SimpleNamespace):
                compare(value, getattr(module, name), f"{path}.{name}")

    stand_in = CupyStandIn(Cuda())
    del stand_in.backend, stand_in.device
    compare(stand_in, cupy, "cupy")
    for name in ("empty", "asarray", "asnumpy", "from_dlpack"):
        assert callable(getattr(cupy, name))


def test_constants_are_those_of_cuda() -> None:
    runtime, library = cupy.cuda.runtime, cupy.cuda.cublas
    assert runtime.cudaDevAttrMultiProcessorCount == device.MULTIPROCESSOR_COUNT
    assert cublas.CUDA_TYPES == {
        "float16": runtime.CUDA_R_16F,
        "bfloat16": runtime.CUDA_R_16BF,
        "float32": runtime.CUDA_R_32F,
        "float64": runtime.CUDA_R_64F,
    }
    assert (cublas.OP_N, cublas.OP_T) == (library.CUBLAS_OP_N, library.CUBLAS_OP_T)
    assert cublas.GEMM_DEFAULT == library.CUBLAS_GEMM_DEFAULT
    assert cublas.COMPUTE_32F == library.CUBLAS_COMPUTE_32F
    assert cublas.COMPUTE_64F == library.CUBLAS_COMPUTE_64F
    assert cublas.COMPUTE_32F_FAST_TF32 == library.CUBLAS_COMPUTE_32F_FAST_TF32


WRONG = {
    "cupy.cuda.driver.launchKernels(1)": AttributeError,
    "cupy.cuda.Device(0).compute_capacity": AttributeError,
    "cupy.cuda.runtime.memsetAsync(1, 0, 8)": TypeError,
    "cupy.cuda.cublas.setMathMode(1, 2, 3)": TypeError,
    "cupy.RawKernel('text', 'name', flags=())": TypeError,
    "stream = cupy.cuda.get_current_stream(); stream.pointer": AttributeError,
}


@pytest.mark.parametrize(("text", "error"), WRONG.items(), ids=WRONG)
def test_the_check_can_fail(text: str, error: type[Exception]) -> None:
    def check_all() -> None:
        for use in uses_in({"a.py": f"import cupy\n{text}"}):
            check(use)

    with pytest.raises(error):
        check_all()
