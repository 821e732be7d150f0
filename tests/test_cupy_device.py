"""What is asked of CuPy: a fake one writes down the calls. No array and no GPU is involved."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from ctypes import c_double, c_float
from dataclasses import replace
from importlib.machinery import ModuleSpec
from threading import Thread
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cudeform.gpu import cublas, ready
from cudeform.gpu import device as module
from cudeform.gpu.device import CupyDevice
from cudeform.gpu.protocol import Gemm, Kernel, Matrix
from cudeform.gpu.steps import Fill, Launch, Product

FUNCTION = 123
ALLOW_TF32 = 3  # CUBLAS_TF32_TENSOR_OP_MATH
KERNEL = Kernel("name", "text")
PARAMS = np.full(1, 7, np.dtype([("n", np.int32)]))
GEMM = Gemm(
    m=2,
    n=3,
    k=4,
    a=Matrix(16, 5, 6, transposed=True),
    b=Matrix(32, 7, 8),
    c=Matrix(48, 9, 10),
    batch=11,
    dtype="float16",
    output_dtype="float32",
)


class FakeCupy(ModuleType):
    """CuPy, as far as a device uses it.

    Its kernels take two addresses and a struct of one number.

    Attributes:
        did: calls, in order.
        mode: math mode of the one cuBLAS handle.
        stream: address of the current stream.
        capturing: whether cuBLAS is refused.
    """

    def __init__(self) -> None:
        super().__init__("cupy")
        self.__spec__ = ModuleSpec("cupy", None)
        self.did: list[tuple[Any, ...]] = []
        self.mode, self.stream, self.capturing = 5, 0, False
        self.is_available = lambda: True
        did, fake = self.did, self

        class Device:
            compute_capability = "90"

            def __init__(self, index: int) -> None:
                self.index = index

            def __enter__(self) -> None:
                did.append(("enter", self.index))

            def __exit__(self, *error: object) -> None:
                did.append(("exit", self.index))

        class External:
            def __init__(self, stream: Any) -> None:
                self.stream = stream.__cuda_stream__()[1]

            def __enter__(self) -> None:
                self.before, fake.stream = fake.stream, self.stream

            def __exit__(self, *error: object) -> None:
                fake.stream = self.before

        class RawKernel:
            def __init__(self, source: str, name: str, options: tuple[str, ...]) -> None:
                did.append(("make", source, name))
                self.limit = 48 * 1024

            @property
            def max_dynamic_shared_size_bytes(self) -> int:
                return self.limit

            @max_dynamic_shared_size_bytes.setter
            def max_dynamic_shared_size_bytes(self, nbytes: int) -> None:
                did.append(("allow", nbytes))
                self.limit = nbytes

            @property
            def kernel(self) -> SimpleNamespace:
                return SimpleNamespace(ptr=FUNCTION)

        def launch(function: int, *how: int) -> None:
            *shape, stream, table, extra = how
            assert (function, extra) == (FUNCTION, 0)
            a, b, struct = (ctypes.c_size_t * 3).from_address(table)
            passed = [ctypes.c_size_t.from_address(at).value for at in (a, b)]
            passed.append(ctypes.c_int32.from_address(struct).value)
            did.append(("launch", shape, passed, stream))

        def multiply(*what: Any) -> None:
            if fake.capturing:
                raise NotImplementedError("calling cuBLAS API during stream capture")
            did.append(("gemm", fake.stream, fake.mode, *what))

        def set_mode(_: int, mode: int) -> None:
            fake.mode = mode

        self.RawKernel = RawKernel
        self.cuda = SimpleNamespace(
            Device=Device,
            Stream=SimpleNamespace(from_external=External),
            alloc=lambda nbytes: SimpleNamespace(ptr=512),
            get_current_stream=lambda: SimpleNamespace(ptr=fake.stream),
            driver=SimpleNamespace(launchKernel=launch),
            device=SimpleNamespace(get_cublas_handle=lambda: 77),
            cublas=SimpleNamespace(
                gemmStridedBatchedEx=multiply,
                getMathMode=lambda _: fake.mode,
                getVersion=lambda _: 130500,
                setMathMode=set_mode,
            ),
            runtime=SimpleNamespace(
                getDeviceCount=lambda: 2,
                deviceGetAttribute=lambda *_: 132,
                memGetInfo=lambda: did.append(("context",)) or (1000, 2000),
                memsetAsync=lambda *what: did.append(("zero", *what)),
            ),
        )


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCupy]:
    fake = FakeCupy()
    monkeypatch.setitem(sys.modules, "cupy", fake)
    caches = (module._properties, ready._compiled, ready._allow_shared)
    monkeypatch.setattr(module, "_thread", module._Thread())
    for cache in caches:
        cache.cache_clear()
    yield fake
    for cache in caches:
        cache.cache_clear()


def kinds(cupy: FakeCupy) -> list[str]:
    return [did[0] for did in cupy.did]


def test_what_is_known_of_the_device(cupy: FakeCupy) -> None:
    device = CupyDevice(1, 99)
    assert (device.compute_capability, device.multiprocessors) == (90, 132)
    assert device.free_bytes() == 1000
    assert kinds(cupy) == ["enter", "context", "exit"]
    assert device.allocate(10).pointer == 512


def test_a_launch_gets_addresses_and_the_struct(cupy: FakeCupy) -> None:
    CupyDevice(1, 99).launch(KERNEL, 3, 64, [2**46 + 16, 0], PARAMS, 100)
    assert cupy.did == [
        ("enter", 1),
        ("context",),
        ("make", "text", "name"),
        ("launch", [3, 1, 1, 64, 1, 1, 100], [2**46 + 16, 0, 7], 99),
        ("exit", 1),
    ]


def launch(*spots: tuple[int, int], shared_bytes: int = 0) -> Launch:
    return Launch(KERNEL, 1, 32, spots, PARAMS, shared_bytes)


STEPS = [
    launch((1, 0), (2, -8)),
    Fill(((3, 64),), 8),
    launch((3, 16), (0, 0)),
    Product(GEMM, ((1, 0), (2, 4), (3, 8))),
]


def test_steps_are_queued_at_their_addresses(cupy: FakeCupy) -> None:
    device, kept = CupyDevice(0, 99), list[Any]()
    for first in (1000, 2000):
        cupy.did.clear()
        device.replay(STEPS, [0, first, 2**40, 2**41], kept)
        passed = [did[2] for did in cupy.did if did[0] == "launch"]
        assert passed == [[first, 2**40 - 8, 7], [2**41 + 16, 0, 7]]
        [zeros] = [did for did in cupy.did if did[0] == "zero"]
        assert zeros == ("zero", 2**41 + 64, 0, 8, 99)
        [product] = [did[4:] for did in cupy.did if did[0] == "gemm"]
        assert [product[at] for at in (6, 10, 15)] == [first, 2**40 + 4, 2**41 + 8]
    assert kinds(cupy) == ["enter", "launch", "zero", "launch", "gemm", "exit"]
    assert len(kept) == 1


def test_calls_that_overlap_have_arguments_of_their_own(
    cupy: FakeCupy, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, kept, inner = CupyDevice(0, 99), list[Any](), []
    plain = cupy.cuda.driver.launchKernel

    def interrupted(*how: int) -> None:
        if not inner:
            inner.append(True)
            device.replay(STEPS, [0, 5000, 6000, 7000], kept)
        plain(*how)

    monkeypatch.setattr(cupy.cuda.driver, "launchKernel", interrupted)
    device.replay(STEPS, [0, 1000, 2000, 3000], kept)
    passed = [did[2][:2] for did in cupy.did if did[0] == "launch"]
    assert passed == [[5000, 5992], [7016, 0], [1000, 1992], [3016, 0]]
    assert len(kept) == 2


def test_a_context_is_made_once_in_each_thread(cupy: FakeCupy) -> None:
    """The driver launches only where there is one, and nobody else may have made it."""

    def run() -> None:
        for index in (0, 0, 1):
            CupyDevice(index, 0).fill_zero(16, 8)

    for _ in range(2):
        thread = Thread(target=run)
        thread.start()
        thread.join()
    assert kinds(cupy).count("context") == 4


def test_an_error_leaves_the_device(cupy: FakeCupy, monkeypatch: pytest.MonkeyPatch) -> None:
    device, kept = CupyDevice(0, 99), list[Any]()
    with monkeypatch.context() as patch:
        patch.setattr(cupy.cuda.cublas, "gemmStridedBatchedEx", None)
        with pytest.raises(TypeError):
            device.replay(STEPS, [0, 1000, 2000, 3000], kept)
    assert kinds(cupy)[-1] == "exit"
    assert (cupy.mode, cupy.stream) == (5, 0)
    device.replay(STEPS, [0, 1000, 2000, 3000], kept)
    assert kinds(cupy)[-2:] == ["gemm", "exit"]


def test_a_kernel_is_made_once_for_each_device(cupy: FakeCupy) -> None:
    for index in (0, 0, 1):
        CupyDevice(index, 0).launch(KERNEL, 1, 32, [16, 32], PARAMS)
    assert kinds(cupy).count("make") == 2


def test_shared_memory_beyond_48_kib_is_asked_for(cupy: FakeCupy) -> None:
    device = CupyDevice(0, 0)
    for shared in (48 * 1024, 50_000, 50_000, 49_500, 60_000):
        device.launch(KERNEL, 1, 32, [16, 32], PARAMS, shared)
    allowed = [did[1] for did in cupy.did if did[0] == "allow"]
    assert allowed == [50_000, 60_000]
    CupyDevice(1, 0).launch(KERNEL, 1, 32, [16, 32], PARAMS, 50_000)
    assert [did[1] for did in cupy.did if did[0] == "allow"] == [50_000, 60_000, 50_000]


def test_a_product(cupy: FakeCupy) -> None:
    cupy.stream = 99
    CupyDevice(0, 99).gemm(GEMM)
    [(_, stream, _, handle, *what)] = [did for did in cupy.did if did[0] == "gemm"]
    assert (stream, handle) == (99, 77)
    del what[14], what[5]  # addresses of the factors
    assert what == [1, 0, 2, 3, 4, 16, 2, 5, 6, 32, 2, 7, 8, 48, 0, 9, 10, 11, 68, -1]


@pytest.mark.parametrize("beta", [0.0, 1.0])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_factors_are_of_the_type_of_the_sum(cupy: FakeCupy, dtype: str, beta: float) -> None:
    gemm = replace(GEMM, dtype=dtype, output_dtype=dtype, beta=beta)
    CupyDevice(0, 0).gemm(gemm)
    what = next(did for did in cupy.did if did[0] == "gemm")[4:]
    kind = c_float if dtype == "float32" else c_double
    assert [kind.from_address(what[at]).value for at in (5, 14)] == [1.0, beta]
    assert what[-2] == (68 if dtype == "float32" else 70)


def test_tf32_is_for_float32_where_it_is_allowed(cupy: FakeCupy) -> None:
    for dtype in ("float16", "float32"):
        for allowed in (False, True):
            CupyDevice(0, 0).gemm(replace(GEMM, dtype=dtype, allow_tf32=allowed))
    assert [did[-2] for did in cupy.did if did[0] == "gemm"] == [68, 68, 68, 77]


def test_a_product_at_other_addresses(cupy: FakeCupy) -> None:
    CupyDevice(0, 0).gemm(GEMM, [1 << 20, 2 << 20, 3 << 20])
    what = next(did for did in cupy.did if did[0] == "gemm")[4:]
    assert [what[at] for at in (6, 10, 15)] == [1 << 20, 2 << 20, 3 << 20]


def test_sums_of_half_precision_are_not_cut_short(cupy: FakeCupy) -> None:
    """Nor those of float32; and the handle, which is everyone's, is left as it was."""
    cupy.mode = ALLOW_TF32
    CupyDevice(0, 0).gemm(GEMM)
    assert next(did for did in cupy.did if did[0] == "gemm")[2] == 16
    assert cupy.mode == ALLOW_TF32


class Library:
    """cuBLAS itself, as far as a capture uses it."""

    def __init__(self, cupy: FakeCupy, status: int = 0) -> None:
        def set_stream(*what: Any) -> int:
            cupy.did.append(("set", *what))
            return 0

        def multiply(*what: Any) -> int:
            cupy.did.append(("captured", cupy.mode, *what))
            return status

        self.cublasSetStream_v2, self.cublasGemmStridedBatchedEx = set_stream, multiply


def test_cublas_itself_is_asked_in_a_capture(
    cupy: FakeCupy, monkeypatch: pytest.MonkeyPatch
) -> None:
    CupyDevice(0, 99).gemm(GEMM)
    plain = next(did for did in cupy.did if did[0] == "gemm")
    versions = []
    library = Library(cupy)
    monkeypatch.setattr(cublas, "_library", lambda major: versions.append(major) or library)
    cupy.capturing = True
    CupyDevice(0, 99).gemm(GEMM)
    assert versions == [13]
    assert ("set", 77, 99) in cupy.did
    [(_, mode, *what)] = [did for did in cupy.did if did[0] == "captured"]
    assert (mode, tuple(what)) == (16, plain[3:])
    assert len(what) == len(cublas.MULTIPLY)
    assert cupy.mode == 5


def test_a_refusal_of_cublas_is_an_error(cupy: FakeCupy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cublas, "_library", lambda _: Library(cupy, status=7))
    cupy.capturing = True
    with pytest.raises(RuntimeError, match="cublasGemmStridedBatchedEx failed with status 7"):
        CupyDevice(0, 99).gemm(GEMM)
    assert cupy.mode == 5


def test_addresses_go_into_the_library_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every argument has the type that C gives it: addresses and strides have 64 bits."""
    got: list[Any] = []
    kinds = cublas.MULTIPLY
    prototype = ctypes.CFUNCTYPE(ctypes.c_int, *kinds)
    stream = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    library = SimpleNamespace(
        cublasGemmStridedBatchedEx=prototype(lambda *what: got.extend(what) or 0),
        cublasSetStream_v2=stream(lambda *what: 0),
    )
    monkeypatch.setattr(cublas, "_library", lambda _: library)
    wide, long = 2**45 + 16, 2**33
    gemm = replace(GEMM, a=replace(GEMM.a, stride=long), c=replace(GEMM.c, stride=long))
    head, of_a, of_b, of_c = cublas.around_pointers(gemm)
    arguments = (*head, wide, *of_a, wide + 16, *of_b, wide + 32, *of_c)
    cublas.multiply(2**46, 130000, 2**46, arguments)
    assert tuple(got) == (2**46, *arguments)


def test_the_library_that_cupy_has_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    names = []

    def load(name: str) -> Any:
        names.append(name)
        functions = ("cublasSetStream_v2", "cublasGemmStridedBatchedEx")
        return SimpleNamespace(**{function: SimpleNamespace() for function in functions})

    monkeypatch.setattr(cublas.ctypes, "CDLL", load)
    monkeypatch.setattr(cublas.sys, "platform", "linux")
    cublas._library.__wrapped__(12)
    monkeypatch.setattr(cublas.sys, "platform", "win32")
    cublas._library.__wrapped__(13)
    assert names == ["libcublas.so.12", "cublas64_13.dll"]


def test_cublas_uses_the_stream_of_the_device(cupy: FakeCupy) -> None:
    cupy.stream = 3
    CupyDevice(0, 99).gemm(GEMM)
    assert next(did for did in cupy.did if did[0] == "gemm")[1] == 99
    assert cupy.stream == 3


def test_cupy_is_looked_for_again_when_it_is_another(
    cupy: FakeCupy, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert module.usable_cupy() is cupy
    other = FakeCupy()
    monkeypatch.setitem(sys.modules, "cupy", other)
    assert module.usable_cupy() is other
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(module.GpuUnavailableError):
        module.usable_cupy()
