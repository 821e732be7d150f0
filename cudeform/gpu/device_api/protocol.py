"""What the GPU engine asks of a device, and the plain things that pass between the two.

``device.py`` answers with CuPy; the tests answer on the CPU with the same kernel text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from numpy.typing import NDArray

from cudeform.arrays import DeviceArray

__all__ = ["Device", "DeviceArray", "Gemm", "Kernel", "Matrix", "Memory"]


@dataclass(frozen=True)
class Kernel:
    """A kernel: the name of its entry point and the whole text to compile."""

    name: str
    source: str


@dataclass(frozen=True)
class Matrix:
    """A batch of column-major matrices, as cuBLAS sees them."""

    pointer: int
    leading: int  # distance of columns, in elements
    stride: int = 0  # distance of matrices, in elements; 0: one matrix for the whole batch
    transposed: bool = False


@dataclass(frozen=True)
class Gemm:
    """``c = op(a) @ op(b) + beta * c`` for each of a batch; op(a) is (m, k), op(b) is (k, n).

    a and b have ``dtype``, c has ``output_dtype``. Sums are kept in float32 for float16, bfloat16
    and float32, in float64 for float64.
    """

    m: int
    n: int
    k: int
    a: Matrix
    b: Matrix
    c: Matrix
    batch: int
    dtype: str
    output_dtype: str
    beta: float = 0.0
    allow_tf32: bool = False

    @property
    def pointers(self) -> tuple[int, int, int]:
        """Addresses of a, b and c."""
        return self.a.pointer, self.b.pointer, self.c.pointer

    def at(self, a: int, b: int, c: int) -> Gemm:
        """The same product of matrices at other addresses."""
        return replace(
            self,
            a=replace(self.a, pointer=a),
            b=replace(self.b, pointer=b),
            c=replace(self.c, pointer=c),
        )


class Memory(Protocol):
    """Device memory that is released when the object goes."""

    @property
    def pointer(self) -> int:
        """Address, a multiple of 16 at least."""


class Device(Protocol):
    """One GPU and one stream; everything is queued on that stream, nothing waits for it."""

    @property
    def compute_capability(self) -> int:
        """Such as 90 for sm_90."""

    @property
    def multiprocessors(self) -> int:
        """How many blocks can run at the same time on different hardware."""

    def free_bytes(self) -> int:
        """Memory that could be allocated now."""

    def allocate(self, nbytes: int) -> Memory:
        """Memory with undefined contents."""

    def fill_zero(self, pointer: int, nbytes: int) -> None:
        """Set bytes to 0."""

    def launch(
        self,
        kernel: Kernel,
        blocks: int,
        threads: int,
        pointers: Sequence[int],
        params: NDArray[Any],
        shared_bytes: int = 0,
    ) -> None:
        """Run a kernel whose parameters are ``pointers`` and then one struct, by value.

        Args:
            kernel: what to run; compiled at its first use.
            blocks: blocks of the grid.
            threads: threads of a block.
            pointers: device addresses, 0 for an array that is absent.
            params: the struct, an array of one element of an aligned structured dtype.
            shared_bytes: dynamic shared memory of a block.
        """

    def gemm(self, gemm: Gemm, pointers: Sequence[int] | None = None) -> None:
        """Multiply matrices; where ``pointers`` are given, a, b and c lie there instead."""
