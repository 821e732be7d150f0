"""The adapter for JAX arrays, inside and outside of ``jax.jit``.

    >>> import cudeform, jax
    >>> @jax.jit
    ... def loss(offset, image, weight):
    ...     return cudeform.deform_conv2d(image, offset, weight, padding=1).sum()
    >>> gradient = jax.jit(jax.grad(loss))

* Forward and reverse mode to the second order, ``vmap``, ``scan``, ``checkpoint``, ``shard_map``,
  and arrays whose batch is spread over devices. ``jax.hessian`` works; forward mode over forward
  mode does not.
* Shapes and dtypes are checked when JAX traces the call. So are ``cudeform.options`` read then: a
  compiled function keeps those it was traced with.
* Outside of ``jit`` every call is a program of its own, compiled once for its shapes; inside, a
  call costs a few microseconds.
* :func:`bridge` makes programs that can be cached on disk and exported.
* A process that ends waits for the calls that are under way.
* JAX 0.7.2 or newer.
"""

from __future__ import annotations

from typing import Any

from cudeform.arrays import DoubleGradients, Gradients, Operands, Tangents
from cudeform.geometry import Geometry
from cudeform.interop.array_adapter import CheckedAdapter
from cudeform.options import current

from . import minimum  # noqa: F401, fails if JAX is too old for what follows

# isort: split
from . import autodiff, batching
from .call_spec import TANGENT, Task
from .lowering import bridge, chosen
from .primitives import call

__all__ = ["bridge"]

autodiff.register()
batching.register()


class JaxAdapter(CheckedAdapter):
    """Binds a call to JAX's primitives; shapes and dtypes are checked when JAX traces it."""

    def dtype_name(self, array: Any) -> str:
        """Name of the dtype, as Geometry knows it."""
        return str(array.dtype.name)

    def device_of(self, array: Any) -> str:
        """Always the same: where arrays are, and which of them fit together, is JAX's to know."""
        return "jax"

    def run_forward(self, operands: Operands, geometry: Geometry) -> Any:
        """Deformable convolution."""
        return call(_task(operands, geometry), "forward", operands.present())["output"]

    def run_jvp(self, operands: Operands, geometry: Geometry, tangents: Tangents) -> Any:
        """Tangent of the output."""
        arrays = operands.present() | _tangents(tangents)
        return call(_task(operands, geometry), "jvp", arrays)["output"]

    def run_backward(
        self, operands: Operands, geometry: Geometry, grad_output: Any, needs: frozenset[str]
    ) -> Gradients:
        """Gradients that are needed."""
        wanted = [name for name in operands.present() if name in needs]
        if not wanted:
            return Gradients()
        arrays = operands.present() | {"grad_output": grad_output}
        return Gradients(**call(_task(operands, geometry), "backward", arrays, wanted))

    def run_double_backward(
        self,
        operands: Operands,
        geometry: Geometry,
        grad_output: Any,
        cotangents: Tangents,
        needs: frozenset[str],
    ) -> DoubleGradients:
        """Gradients of ``sum(cotangents * backward(...))`` that are needed."""
        wanted = [name for name in DoubleGradients._fields if name in needs]
        if not wanted:
            return DoubleGradients()
        arrays = operands.present() | {"grad_output": grad_output} | _tangents(cotangents)
        return DoubleGradients(**call(_task(operands, geometry), "double_backward", arrays, wanted))


ADAPTER = JaxAdapter()


def _tangents(tangents: Tangents) -> dict[str, Any]:
    given = tangents._asdict().items()
    return {TANGENT + name: array for name, array in given if array is not None}


def _task(operands: Operands, geometry: Geometry) -> Task:
    return Task(
        operation="",
        geometry=geometry,
        options=current(),
        dtype=ADAPTER.dtype_name(operands.input),
        inputs=(),
        outputs=(),
        bridge=chosen(),
    )
