"""What goes beside the tensors through torch's dispatcher: plain integers, strings and lists.

Autograd runs the backward on threads of its own, where the caller's options are not in force. So an
operator takes as arguments what was in force when the forward was called, and hands it on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch

from cudeform.geometry import Padding, Pair, as_padding, as_pair
from cudeform.options import Options, current

SCHEMA = (
    "int[2] stride, int[4] padding, int[2] dilation, str boundary_grad, int[] tuning, bool assumed"
)


class Settings(NamedTuple):
    """The last arguments of every operator, in the order of ``SCHEMA``.

    Attributes:
        stride, dilation: vertical, horizontal.
        padding: top, bottom, left, right.
        boundary_grad: as in Options.
        tuning: deterministic, allow_tf32, workspace_limit and num_threads, 0 for None. Empty: those
            in force when the operator runs.
        assumed: boundary_grad was read from the options while compiling, and nobody would notice if
            the options changed; the forward looks.
    """

    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    boundary_grad: str
    tuning: Sequence[int]
    assumed: bool

    @classmethod
    def of(
        cls, stride: Pair, padding: Padding, dilation: Pair, boundary_grad: str | None = None
    ) -> Settings:
        """Settings of a call under the options in force; ``boundary_grad`` may overrule them."""
        (top, bottom), (left, right) = as_padding(padding)
        sizes = (
            as_pair("stride", stride, 1),
            (top, bottom, left, right),
            as_pair("dilation", dilation, 1),
        )
        if torch.compiler.is_compiling():
            assumed = boundary_grad is None and not torch.compiler.is_exporting()
            return cls(*sizes, boundary_grad or _boundary_grad(), (), assumed)
        options = current()
        return cls(*sizes, boundary_grad or options.boundary_grad, _tuning(options), False)

    def options(self) -> Options:
        """The options to run under."""
        if self.tuning:
            return _options(self.boundary_grad, tuple(self.tuning))
        return _with(current(), self.boundary_grad)

    def check_assumed(self) -> None:
        """Refuse to run code that was compiled under another ``boundary_grad``.

        Raises:
            RuntimeError: the option has changed since.
        """
        now = current().boundary_grad
        if self.assumed and now != self.boundary_grad:
            raise RuntimeError(
                f"this code was compiled while cudeform's option boundary_grad was "
                f'"{self.boundary_grad}", now it is "{now}": call torch.compiler.reset(), or give '
                "the layer its boundary_grad"
            )


# Dynamo can read no context variable; it takes what this returns for a constant.
@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _boundary_grad() -> str:
    return current().boundary_grad


@lru_cache(maxsize=64)
def _tuning(options: Options) -> tuple[int, ...]:
    return (
        int(options.deterministic),
        int(options.allow_tf32),
        options.workspace_limit or 0,
        options.num_threads or 0,
    )


@lru_cache(maxsize=64)
def _options(boundary_grad: Any, tuning: tuple[int, ...]) -> Options:
    deterministic, allow_tf32, workspace_limit, num_threads = tuning
    return Options(
        deterministic=bool(deterministic),
        allow_tf32=bool(allow_tf32),
        workspace_limit=workspace_limit or None,
        boundary_grad=boundary_grad,
        num_threads=num_threads or None,
    )


@lru_cache(maxsize=64)
def _with(options: Options, boundary_grad: Any) -> Options:
    return replace(options, boundary_grad=boundary_grad)
