"""Contestants that force an algorithm of cudeform, to evaluate the engine's choices.

The names of these contestants begin with "path", for an algorithm of the whole call, or with
"scatter", for a way to sum grad_input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cudeform.arrays import Operands
from cudeform.family import OPERATORS
from cudeform.geometry import Geometry
from cudeform.gpu import overrides, variants
from cudeform.gpu.algorithms import direct, forward_algorithm
from cudeform.gpu.device_api.kernel_source import widest
from cudeform_bench.configs import Config
from cudeform_bench.convolutions import Convolution
from cudeform_bench.gpu.contestants import Tensors, cudeform_calls
from cudeform_bench.gpu.model import Mode
from cudeform_bench.peers.torch_calls import Calls
from cudeform_bench.sums import Sum

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
            directions = path_directions(name, tensors.config, mode.dtype, processor)
            return _forced({"algorithm": name}, directions, cudeform_calls(tensors, mode))

        return calls

    def of_scatter(name: str) -> Callable[[Tensors, Mode], Calls]:
        def calls(tensors: Tensors, mode: Mode) -> Calls:
            able = can_scatter(name, tensors.config, mode.dtype, processor)
            directions = (tensors.config.scatter_direction,) if able else ()
            return _forced({"scatter": name}, directions, cudeform_calls(tensors, mode))

        return calls

    return {PATH + name: of_path(name) for name in path_names} | {
        SCATTER + name: of_scatter(name) for name in scatter_names
    }


def geometry(config: Convolution) -> Geometry:
    """The sizes of a configuration; of a transposed one, those of the convolution behind it."""
    operator = OPERATORS[config.operator]
    taps = config.offset_groups * config.taps
    kernel = [config.kernel] * config.axes
    rows = config.channels if config.transposed else config.out_channels
    shapes = Operands(
        input=(config.batch, config.channels, *config.size),
        offset=(config.batch, config.axes * taps, *config.position_size),
        weight=(rows, config.image_channels // config.groups, *kernel),
        bias=(config.out_channels,),
        mask=(config.batch, taps, *config.position_size),
    )
    settings: Any = operator.settings
    sizes: Any = operator.geometry(shapes, settings(**config.settings))
    convolution: Geometry = sizes.convolution if config.transposed else sizes
    return convolution


def path_directions(name: str, config: Config, dtype: str, processor: Processor) -> tuple[str, ...]:
    """The directions in which a configuration supports a path; none for a sum, which has one path.

    "fused" computes a convolution: the forward, or the gradient of a transposed one's input.
    """
    if isinstance(config, Sum):
        return ()
    with overrides.force(algorithm=name):
        taken: Any = forward_algorithm(geometry(config), dtype, processor)  # type: ignore[arg-type]
    if taken != name:
        return ()
    if name == "fused":
        return ("backward",) if config.transposed else ("forward",)
    return ("forward", "backward", "both")


def can_scatter(name: str, config: Config, dtype: str, processor: Processor) -> bool:
    """Whether a configuration supports this way to sum grad_input."""
    if name != "vector":
        return True
    if isinstance(config, Sum):
        wide = widest(dtype)
        vector = wide if config.channels % wide == 0 else 1
    else:
        g = geometry(config)
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
