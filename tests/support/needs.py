"""The libraries that tests need in addition to NumPy, pytest and hypothesis."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec

# Libraries whose arrays have tests of their own.
ADAPTED = (
    "ml_dtypes",
    "cupy",
    "torch",
    "torchvision",
    "jax",
    "flax",
    "mlx",
    "tensorflow",
    "keras",
    "array_api_strict",
    "dask",
)

# Kernels are compiled with it for the CPU; None if there is none.
COMPILER = shutil.which(os.environ.get("CXX", "g++"))


def has(*libraries: str) -> bool:
    """Whether all these libraries are installed."""
    return all(map(find_spec, libraries))
