"""Contestants that force an algorithm of cudeform, to evaluate the engine's choices.

The names of these contestants begin with "path", for an algorithm of the whole call, or with
"scatter", for a way to sum grad_input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cudeform.geometry import Geometry, geometry_of
from cudeform.gpu import overrides, variants
from cudeform.gpu.algorithms import direct, forward_algorithm
from cudeform_bench.configs import Config
from cudeform_bench.gpu.contestants import Calls, Tensors, cudeform_calls
from cudeform_bench.gpu.model import Mode

# Prefixes of the names.
PATH, SCATTER = "path ", "scatter "


@dataclass(frozen=True)
class Processor:
    """The properties of a GPU on which the engine's choices depend."""

    compute_capability: int
    multiprocessors: int


def is_forced(name: str) -> bool:
    """Whether a contestant is cudeform with a forced path or scatter."""
    return name.startswith((PATH, SCATTER))


def contestants(
    processor: Processor, path_names: Sequence[str], scatter_names: Sequence[str]
) -> dict[str, Callable[[Tensors, Mode], Calls]]:
    """A contestant for each path and scatter, without calls for convolutions that lack it."""

    def of_path(name: str) -> Callable[[Tensors, Mode], Calls]:
        def calls(tensors: Tensors, mode: Mode) -> Calls:
            directions = path_directions(name, geometry(tensors.config), mode.dtype, processor)
            return _forced({"algorithm": name}, directions, cudeform_calls(tensors, mode))

        return calls

    def of_scatter(name: str) -> Callable[[Tensors, Mode], Calls]:
        def calls(tensors: Tensors, mode: Mode) -> Calls:
            able = can_scatter(name, geometry(tensors.config), mode.dtype, processor)
            directions = ("backward",) if able else ()
            return _forced({"scatter": name}, directions, cudeform_calls(tensors, mode))

        return calls

    return {PATH + name: of_path(name) for name in path_names} | {
        SCATTER + name: of_scatter(name) for name in scatter_names
    }


def geometry(config: Config) -> Geometry:
    """The sizes of a configuration."""
    kernel, taps = (config.kernel, config.kernel), config.taps * config.offset_groups
    out = (config.out_height, config.out_width)
    return geometry_of(
        (config.batch, config.channels, config.height, config.width),
        (config.batch, 2 * taps, *out),
        (config.out_channels, config.channels // config.groups, *kernel),
        (config.out_channels,),
        config.stride,
        config.padding,
        1,
        (config.batch, taps, *out),
    )


def path_directions(name: str, g: Geometry, dtype: str, processor: Processor) -> tuple[str, ...]:
    """The directions in which a convolution supports a path; "fused" has only a forward."""
    with overrides.force(algorithm=name):
        taken: Any = forward_algorithm(g, dtype, processor)  # type: ignore[arg-type]
    if taken != name:
        return ()
    return ("forward",) if name == "fused" else ("forward", "backward", "both")


def can_scatter(name: str, g: Geometry, dtype: str, processor: Processor) -> bool:
    """Whether a convolution supports this way to sum grad_input."""
    if name != "vector":
        return True
    vector = (direct if direct.supports(g) else variants).vector_of(g, dtype)
    return variants.atomic_width(dtype, vector, processor.compute_capability) > 1


def _forced(
    choice: dict[str, str],
    directions: Sequence[str],
    calls: Calls,
) -> Calls:
    def within(call: Callable[[], Any]) -> Callable[[], Any]:
        def forced() -> Any:
            with overrides.force(**choice):
                return call()

        return forced

    return {direction: within(calls[direction]) for direction in directions}
