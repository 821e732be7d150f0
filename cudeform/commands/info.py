"""Report what cudeform finds on this machine, what works, and what to change."""

from __future__ import annotations

import argparse
import platform
import re
import textwrap
from collections.abc import Mapping
from importlib import metadata
from importlib.util import find_spec
from typing import Any

import numpy as np

import cudeform
from cudeform.commands.gpus import Gpus, gpu
from cudeform.commands.machine import (
    AVX512,
    Blas,
    Loops,
    Machine,
    avx512_remarks,
    blas_libraries,
)
from cudeform.family import OPERATORS

__all__ = [
    "AVX512",
    "Blas",
    "Gpus",
    "Loops",
    "Machine",
    "avx512_remarks",
    "blas_libraries",
    "gpu",
    "note",
]

# Import names of the libraries whose versions are reported.
LIBRARIES = (
    "numpy", "numba", "threadpoolctl", "scipy", "cupy", "torch", "torchvision", "jax",
    "tensorflow", "dask", "onnxruntime",
)  # fmt: skip

# Libraries whose CPU arrays the CPU engine computes on, as on NumPy's.
ADAPTERS = {
    "torch": "PyTorch tensors",
    "jax": "JAX arrays",
    "tensorflow": "TensorFlow tensors",
    "dask": "Dask arrays",
}
WIDTH = 88
COMMAND = re.compile(r"(pip install|python -m cudeform) \S+")
HARD_SPACE = "\N{NO-BREAK SPACE}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command has no options."""


def run(arguments: argparse.Namespace) -> int:
    """Print the report; return 1 if cudeform does not work, else 0."""
    loops, gpus = Loops.here(), Gpus.here(small_call_is_right)
    works = loops.numba is not None and small_call_is_right(np)
    print(note(Machine.here(), loops, versions(), gpus, works))
    return 0 if works and gpus.works else 1


def note(
    machine: Machine, loops: Loops, libraries: Mapping[str, str], gpus: Gpus, works: bool
) -> str:
    """The report in three sections: Found, Works, To do.

    Args:
        machine: the processor and the BLAS libraries.
        loops: state of the CPU engine's compiled loops.
        libraries: versions of the installed libraries, by name.
        gpus: the GPUs and the outcome of a call on them.
        works: whether a small convolution on NumPy arrays gave the right result.
    """
    remarks = [*loops.remarks, *machine.remarks, *gpus.remarks]
    if not (works or loops.failure):
        remarks.insert(0, "A small convolution came out wrong. Please report this note.")
    installed = ", ".join(f"{name} {version}" for name, version in libraries.items())
    absent = ", ".join(name for name in LIBRARIES if name not in libraries)
    system = f"{platform.system()} {platform.machine()}"
    lines = [f"cudeform {cudeform.__version__} on Python {platform.python_version()}, {system}"]
    lines += ["", "Found"]
    lines += [wrapped("", line) for line in (*str(machine).splitlines(), str(loops))]
    lines += [wrapped("GPU: ", "; ".join((gpus.found, *gpus.facts)))]
    lines += [wrapped("installed: ", installed), wrapped("not installed: ", absent or "-")]
    lines += ["", "Works"]
    came_out = f"a small convolution came out {'right' if works else 'wrong'}"
    lines += [wrapped("", f"NumPy arrays, on the CPU: {'not here' if loops.failure else came_out}")]
    lines += [
        wrapped("", f"{arrays}, on the CPU: by the same engine, not tried here")
        for library, arrays in ADAPTERS.items()
        if library in libraries
    ]
    lines += [wrapped("", f"CuPy arrays, on a GPU: {gpus.outcome}")]
    lines += [wrapped("operators, on a CPU or a GPU: ", ", ".join(OPERATORS))]
    lines += ["", "To do", *(wrapped("- ", remark) for remark in remarks or ["nothing"])]
    return "\n".join(lines)


def wrapped(mark: str, text: str) -> str:
    """Wrap a paragraph that begins with ``mark``, without a line break inside a command."""
    hard = COMMAND.sub(lambda command: command[0].replace(" ", HARD_SPACE), text)
    lines = textwrap.fill(
        hard,
        WIDTH,
        initial_indent=f"  {mark}",
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return lines.replace(HARD_SPACE, " ")


def versions() -> dict[str, str]:
    """Versions of the installed libraries, by name, without an import of any of them."""
    packages = metadata.packages_distributions()  # some have several packages, as CuPy does
    return {
        name: metadata.version(packages[name][0])
        for name in LIBRARIES
        if name in packages and find_spec(name) is not None
    }


def small_call_is_right(xp: Any) -> bool:
    """Whether a convolution that shifts an image up by one row gives the right result.

    Args:
        xp: NumPy, or CuPy to run on the GPU.
    """
    image = xp.arange(9, dtype="float32").reshape(1, 1, 3, 3)
    offset = xp.zeros((1, 2, 3, 3), "float32")
    offset[:, 0] = 1
    shifted = cudeform.deform_conv2d(image, offset, xp.ones((1, 1, 1, 1), "float32"))
    return bool((shifted[0, 0] == xp.asarray([[3, 4, 5], [6, 7, 8], [0, 0, 0]])).all())
