"""The adapter for JAX arrays, inside and outside of ``jax.jit``.

    >>> import cudeform, jax
    >>> @jax.jit
    ... def loss(offset, image, weight):
    ...     return cudeform.deform_conv2d(image, offset, weight, padding=1).sum()
    >>> gradient = jax.jit(jax.grad(loss))

* Supported: forward and reverse mode to the second order, ``vmap``, ``scan``, ``checkpoint``,
  ``shard_map``, and arrays whose batch is spread over devices. ``jax.hessian`` works. Forward mode
  over forward mode is not supported if both directions include the offset.
* ``jax.linear_transpose`` works for input, weight or mask, each alone or with bias. As in JAX's own
  functions, a constant bias is ignored. The derivatives have transposes too.
* NumPy arrays in a call with JAX arrays are constants. They are converted to JAX's dtype: without
  ``jax_enable_x64``, float64 becomes float32.
* Shapes and dtypes are checked, and ``cudeform.options`` are read, when JAX traces the call. A
  compiled function keeps the options that were in force when it was traced.
* Outside ``jit``, and under ``jax.disable_jit``, JAX compiles a program for each call signature and
  runs it. Inside ``jit``, a call adds a few microseconds.
* :func:`bridge` makes programs that can be cached on disk. ``jax.export`` needs no bridge, but must
  be told that the custom call is stable, ``disabled_checks=[jax.export.DisabledSafetyCheck.
  custom_call("cudeform_deform_conv2d")]``, or that of another operator. A process that
  runs an exported program must have imported ``cudeform.interop.jax``.
* At exit, a process waits for the calls that are still running.
* JAX 0.7.2 or newer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cudeform.arrays import DoubleGradients, Gradients, Operands, Tangents
from cudeform.checks import DTYPES, TANGENT
from cudeform.interop.array_adapter import CheckedAdapter
from cudeform.interop.numpy import ADAPTER as NUMPY_ADAPTER
from cudeform.options import current
from cudeform.spec import AnyGeometry, AnySettings, Operator

MINIMUM_JAX = (0, 7, 2)  # the oldest version with which the tests were run

# This check precedes the imports of the other modules, which fail with an older JAX.
if jax.__version_info__ < MINIMUM_JAX:
    raise ImportError(
        f"cudeform needs jax {'.'.join(map(str, MINIMUM_JAX))} or newer, got "
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
        """Name of the dtype, spelled as in ``checks.DTYPES``."""
        return str(array.dtype.name)

    def device_of(self, array: Any) -> str:
        """A constant, because JAX itself checks the devices of a program's arrays."""
        return "jax"

    def forward(self, operator: Operator, operands: Operands, settings: AnySettings) -> Any:
        """Check the call and run it."""
        return super().forward(operator, _operands(operator, operands), settings)

    def backward(
        self,
        operator: Operator,
        operands: Operands,
        settings: AnySettings,
        grad_output: Any,
        needs: frozenset[str],
    ) -> Gradients:
        """Check the call and run it."""
        grad_output = _constant("grad_output", grad_output)
        return super().backward(
            operator, _operands(operator, operands), settings, grad_output, needs
        )

    def jvp(
        self, operator: Operator, operands: Operands, settings: AnySettings, tangents: Tangents
    ) -> Any:
        """Check the call and run it."""
        tangents = _constant_tangents(operator, tangents)
        return super().jvp(operator, _operands(operator, operands), settings, tangents)

    def double_backward(
        self,
        operator: Operator,
        operands: Operands,
        settings: AnySettings,
        grad_output: Any,
        cotangents: Tangents,
        needs: frozenset[str],
    ) -> DoubleGradients:
        """Check the call and run it."""
        grad_output = _constant("grad_output", grad_output)
        directions = grad_output, _constant_tangents(operator, cotangents)
        operands = _operands(operator, operands)
        return super().double_backward(operator, operands, settings, *directions, needs)

    def run_forward(self, operator: Operator, operands: Operands, geometry: AnyGeometry) -> Any:
        """The output."""
        return _run(operator, "forward", geometry, _primals(operands), ["output"])["output"]

    def run_jvp(
        self, operator: Operator, operands: Operands, geometry: AnyGeometry, tangents: Tangents
    ) -> Any:
        """The tangent of the output."""
        arguments = _primals(operands) | _tangents(tangents)
        return _run(operator, "jvp", geometry, arguments, ["output"])["output"]

    def run_backward(
        self,
        operator: Operator,
        operands: Operands,
        geometry: AnyGeometry,
        grad_output: Any,
        needs: frozenset[str],
    ) -> Gradients:
        """The gradients named in ``needs``."""
        outputs = [name for name in Gradients._fields if name in needs]
        arguments = _primals(operands) | {GRAD_OUTPUT: grad_output}
        return Gradients(**_run(operator, "backward", geometry, arguments, outputs))

    def run_double_backward(
        self,
        operator: Operator,
        operands: Operands,
        geometry: AnyGeometry,
        grad_output: Any,
        cotangents: Tangents,
        needs: frozenset[str],
    ) -> DoubleGradients:
        """The gradients of ``sum(cotangents * backward(...))`` named in ``needs``."""
        outputs = [name for name in DoubleGradients._fields if name in needs]
        arguments = _primals(operands) | {GRAD_OUTPUT: grad_output}
        arguments |= _tangents(cotangents)
        return DoubleGradients(**_run(operator, "double_backward", geometry, arguments, outputs))


ADAPTER = JaxAdapter()


def _operands(operator: Operator, operands: Operands) -> Operands:
    """The operands as JAX arrays."""
    arrays = operands.present()
    if not any(isinstance(array, np.ndarray) for array in arrays.values()):
        return operands
    return Operands(
        **{name: _constant(operator.public(name), array) for name, array in arrays.items()}
    )


def _constant_tangents(operator: Operator, tangents: Tangents) -> Tangents:
    named = zip(Tangents._fields, tangents, strict=True)
    return Tangents(*(_constant(operator.public(TANGENT + name), array) for name, array in named))


def _constant(name: str, array: Any) -> Any:
    """Convert a NumPy array to a JAX array of JAX's dtype; return anything else unchanged."""
    if not isinstance(array, np.ndarray):
        return array
    try:
        # A copy, because the call runs later, and gradients read the operands again.
        return jnp.array(array)
    except TypeError as error:
        raise TypeError(
            f"{name} must have a dtype among {', '.join(DTYPES)}, got "
            f"{NUMPY_ADAPTER.dtype_name(array)}"
        ) from error


def _primals(operands: Operands) -> dict[Argument, Any]:
    return with_role("primal", operands.present())


def _tangents(tangents: Tangents) -> dict[Argument, Any]:
    given = tangents._asdict().items()
    return with_role("tangent", {name: array for name, array in given if array is not None})


def _run(
    operator: Operator,
    operation: str,
    geometry: AnyGeometry,
    arguments: Arguments,
    outputs: Iterable[str],
) -> dict[str, Any]:
    """Run an operation and return its results by name."""
    spec = CallSpec(
        operator=operator.name,
        operation=operation,
        geometry=geometry,
        options=current(),
        dtype=ADAPTER.dtype_name(arguments[Argument("primal", "input")]),
        coordinates_dtype=ADAPTER.dtype_name(arguments[Argument("primal", "offset")]),
        inputs=tuple(arguments),
        outputs=tuple(outputs),
        bridge=current_bridge(),
    )
    results = bind(spec, arguments.values()) if spec.outputs else []
    return dict(zip(spec.outputs, results, strict=True))
