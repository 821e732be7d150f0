"""The adapter for JAX arrays, inside and outside of ``jax.jit``.

    >>> import cudeform, jax
    >>> @jax.jit
    ... def loss(offset, image, weight):
    ...     return cudeform.deform_conv2d(image, offset, weight, padding=1).sum()
    >>> gradient = jax.jit(jax.grad(loss))

* Forward and reverse mode to the second order, ``vmap``, ``scan``, ``checkpoint``, ``shard_map``,
  and arrays whose batch is spread over devices. ``jax.hessian`` works; forward mode over forward
  mode does not.
* Shapes and dtypes are checked, and ``cudeform.options`` read, when JAX traces the call: a compiled
  function keeps the options that it was traced with.
* Outside of ``jit`` every call is a program of its own, compiled once for its shapes; inside, a
  call costs a few microseconds.
* :func:`bridge` makes programs that can be cached on disk and exported.
* A process that ends waits for the calls that are under way.
* JAX 0.7.2 or newer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax

from cudeform.arrays import DoubleGradients, Gradients, Operands, Tangents
from cudeform.geometry import Geometry
from cudeform.interop.array_adapter import CheckedAdapter
from cudeform.options import current

MINIMUM_JAX = (0, 7, 2)  # the oldest that the tests were run with

# Before the other modules of this folder, which an older JAX cannot import.
if jax.__version_info__ < MINIMUM_JAX:
    raise ImportError(
        f"cudeform takes arrays of jax {'.'.join(map(str, MINIMUM_JAX))} or newer, this is "
        f"{jax.__version__}; pip install --upgrade jax"
    )

from . import autodiff, batching  # noqa: E402
from .call_spec import GRAD_OUTPUT, Argument, Arguments, CallSpec, with_role  # noqa: E402
from .lowering import bridge, current_bridge  # noqa: E402
from .primitives import bind  # noqa: E402

__all__ = ["bridge"]

autodiff.register()
batching.register()


class JaxAdapter(CheckedAdapter):
    """Binds a call to JAX's primitives; shapes and dtypes are checked when JAX traces it."""

    def dtype_name(self, array: Any) -> str:
        """Name of the dtype, as Geometry knows it."""
        return str(array.dtype.name)

    def device_of(self, array: Any) -> str:
        """Always the same: JAX itself checks which arrays may meet in a program."""
        return "jax"

    def run_forward(self, operands: Operands, geometry: Geometry) -> Any:
        """The deformable convolution."""
        return _run("forward", geometry, _primals(operands), ["output"])["output"]

    def run_jvp(self, operands: Operands, geometry: Geometry, tangents: Tangents) -> Any:
        """The tangent of the output."""
        arguments = _primals(operands) | _tangents(tangents)
        return _run("jvp", geometry, arguments, ["output"])["output"]

    def run_backward(
        self, operands: Operands, geometry: Geometry, grad_output: Any, needs: frozenset[str]
    ) -> Gradients:
        """The gradients named in ``needs``."""
        outputs = [name for name in Gradients._fields if name in needs]
        arguments = _primals(operands) | {GRAD_OUTPUT: grad_output}
        return Gradients(**_run("backward", geometry, arguments, outputs))

    def run_double_backward(
        self,
        operands: Operands,
        geometry: Geometry,
        grad_output: Any,
        cotangents: Tangents,
        needs: frozenset[str],
    ) -> DoubleGradients:
        """The gradients of ``sum(cotangents * backward(...))`` named in ``needs``."""
        outputs = [name for name in DoubleGradients._fields if name in needs]
        arguments = _primals(operands) | {GRAD_OUTPUT: grad_output}
        arguments |= _tangents(cotangents)
        return DoubleGradients(**_run("double_backward", geometry, arguments, outputs))


ADAPTER = JaxAdapter()


def _primals(operands: Operands) -> dict[Argument, Any]:
    return with_role("primal", operands.present())


def _tangents(tangents: Tangents) -> dict[Argument, Any]:
    given = tangents._asdict().items()
    return with_role("tangent", {name: array for name, array in given if array is not None})


def _run(
    operation: str, geometry: Geometry, arguments: Arguments, outputs: Iterable[str]
) -> dict[str, Any]:
    """Results of an operation by name."""
    spec = CallSpec(
        operation=operation,
        geometry=geometry,
        options=current(),
        dtype=ADAPTER.dtype_name(arguments[Argument("primal", "input")]),
        inputs=tuple(arguments),
        outputs=tuple(outputs),
        bridge=current_bridge(),
    )
    results = bind(spec, arguments.values()) if spec.outputs else []
    return dict(zip(spec.outputs, results, strict=True))
