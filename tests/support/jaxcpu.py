"""JAX set up for its tests: eight devices on the CPU, the GPU if there is one, and float64."""

import os
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from cases import Case
from support.functions import AnyCase

from cudeform.gpu.cuda.device import device_count

HAS_GPU = device_count() > 0 and any(find_spec(f"jax_cuda{n}_plugin") for n in (12, 13))

# JAX reads these when it is imported. CuPy needs a part of the GPU's memory.
os.environ["JAX_PLATFORMS"] = "cpu,cuda" if HAS_GPU else "cpu"
os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
jax = pytest.importorskip("jax")
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_disable_most_optimizations", True)  # XLA compiles in two thirds of the time

import jax.numpy as jnp  # noqa: E402

import cudeform  # noqa: E402
from cudeform.interop.jax import bridge  # noqa: E402

__all__ = ["assert_close", "bridge", "function_of", "jax", "jnp", "loss_of", "on_jax", "operands"]

OPERANDS = ("input", "offset", "weight", "bias", "mask")  # of deform_conv2d


def on_jax(case: AnyCase) -> Any:
    """The case with JAX arrays."""
    return case.map(jnp.asarray)


def operands(case: AnyCase) -> dict[str, Any]:
    """The operands of a case as JAX arrays, without those that are None."""
    return {name: jnp.asarray(array) for name, array in case.operands.items()}


def function_of(case: Case) -> Any:
    """``deform_conv2d`` of operands by name, with the sizes of a case."""
    sizes = {"stride": case.stride, "padding": case.padding, "dilation": case.dilation}
    return lambda arrays: cudeform.deform_conv2d(**arrays, **sizes)


def loss_of(case: Case) -> Any:
    """A scalar function of the operands whose second derivatives are not zero."""
    call = function_of(case)
    return lambda arrays: jnp.sum(jnp.sin(call(arrays)))


def assert_close(actual: Any, wanted: Any, tolerance: float = 1e-10) -> None:
    """Compare trees of arrays."""
    assert jax.tree.structure(actual) == jax.tree.structure(wanted)
    for got, want in zip(jax.tree.leaves(actual), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)
