"""A fake CuPy that writes down what it is asked. No array and no GPU is involved."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

from cudeform.gpu.cuda.device import CupyDevice
from cudeform.gpu.device_api.commands import Command, FillZero, Gemm, Matrix, Step

FUNCTION = 123
GEMM = Gemm(
    m=2,
    n=3,
    k=4,
    a=Matrix(5, 6, transposed=True),
    b=Matrix(7, 8),
    c=Matrix(9, 10),
    batch=11,
    dtype="float16",
    output_dtype="float32",
)


POINTERS = (16, 32, 48)  # of a, b and c
ZERO = FillZero(8)


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


def replay_one(device: CupyDevice, command: Command, pointers: Sequence[int] = POINTERS) -> None:
    """Replay a plan of one command."""
    addresses = tuple((base, 0) for base in range(len(pointers)))
    device.replay([Step(command, addresses)], pointers, [])


def kinds(cupy: FakeCupy) -> list[str]:
    return [did[0] for did in cupy.did]
