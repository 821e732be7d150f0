"""The commands that the engine queues on a device: launches, matrix products, zero fills.

A command does not contain its pointers; they are passed beside it. So a launch plan can store
commands and queue them again with the pointers of another call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from numpy.typing import NDArray


@dataclass(frozen=True)
class Kernel:
    """A kernel: the name of its entry point, and its complete source text."""

    name: str
    source: str


@dataclass(frozen=True, slots=True)
class KernelLaunch:
    """A kernel launch; the parameters of a kernel are pointers, followed by one struct by value.

    A pointer is a device address, or 0 for an array that is absent.

    Attributes:
        kernel: the kernel, compiled at first use.
        blocks: number of blocks of the grid.
        threads: number of threads of a block.
        params: the struct, an array of one element of an aligned structured dtype.
        shared_bytes: dynamic shared memory of a block.
    """

    kernel: Kernel
    blocks: int
    threads: int
    params: NDArray[Any]
    shared_bytes: int = 0


@dataclass(frozen=True)
class Matrix:
    """A batch of matrices in cuBLAS's column-major convention.

    Attributes:
        ld: leading dimension, the distance of two columns in elements.
        stride: distance of two matrices in elements; 0 if the whole batch shares one matrix.
        transposed: whether the product takes the transposed matrix.
    """

    ld: int
    stride: int = 0
    transposed: bool = False


@dataclass(frozen=True)
class Gemm:
    """A batch of products ``c = op(a) @ op(b) + beta * c``; op(a) is (m, k), op(b) is (k, n).

    The pointers of the command are those of a, b and c. a and b have ``dtype``, c has
    ``output_dtype``. Sums are float64 for float64 and float32 for all other dtypes.
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


@dataclass(frozen=True, slots=True)
class FillZero:
    """Sets bytes to 0, beginning at its only pointer."""

    nbytes: int


Command = KernelLaunch | Gemm | FillZero

# A pointer in a launch plan: the number of a base, and the distance from it in bytes. The bases are
# the null pointer, the pointers of the operands, and the pointer of the workspace.
Address = tuple[int, int]


class Step(NamedTuple):
    """A command of a launch plan, and its pointers."""

    command: Command
    addresses: tuple[Address, ...]
