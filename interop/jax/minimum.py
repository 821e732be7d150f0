"""Refuse in words a JAX that is too old for the modules beside this one."""

import jax

MINIMUM = (0, 7, 0)  # the oldest that the tests were run with

if jax.__version_info__ < MINIMUM:
    raise ImportError(
        f"cudeform takes arrays of jax {'.'.join(map(str, MINIMUM))} or newer, this is "
        f"{jax.__version__}; pip install --upgrade jax"
    )
