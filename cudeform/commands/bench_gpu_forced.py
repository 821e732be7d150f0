"""cudeform forced onto one path, or to one scatter: what the engine's own choices are judged by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cudeform.commands.bench_configs import Config
from cudeform.commands.bench_gpu_model import Mode
from cudeform.commands.bench_gpu_peers import Calls, Tensors, cudeform_calls
from cudeform.geometry import Geometry, geometry_of
from cudeform.gpu import call as columns
from cudeform.gpu import overrides
from cudeform.gpu.algorithms import direct, forward_algorithm

# Names of these contestants begin so.
PATH, SCATTER = "path ", "scatter "


@dataclass(frozen=True)
class Processor:
    """What the engine's choices depend on of a GPU."""

    compute_capability: int
    multiprocessors: int


def is_forced(name: str) -> bool:
    """Whether a contestant is cudeform, forced."""
    return name.startswith((PATH, SCATTER))


def contestants(
    processor: Processor, path_names: Sequence[str], scatter_names: Sequence[str]
) -> dict[str, Callable[[Tensors, Mode], Calls]]:
    """Calls for each path and each scatter, by name; without those that a convolution lacks."""

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
    """Directions in which a convolution can go a way; the fused one is one of the forward alone."""
    with overrides.force(algorithm=name):
        taken: Any = forward_algorithm(g, dtype, processor)  # type: ignore[arg-type]
    if taken != name:
        return ()
    return ("forward",) if name == "fused" else ("forward", "backward", "both")


def can_scatter(name: str, g: Geometry, dtype: str, processor: Processor) -> bool:
    """Whether a convolution can sum the gradient of its input so."""
    way = direct if direct.supports(g) else columns
    adds = columns.atomic_width(dtype, way.vector_of(g, dtype), processor.compute_capability)
    return name != "vector" or adds > 1


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
