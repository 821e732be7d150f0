"""What goes beside the tensors through torch's dispatcher: one list of integers.

Autograd runs the backward on threads of its own, where the caller's options are not in force. So an
operator takes as an argument what was in force when the forward was called, and hands it on. It is
one argument since each costs microseconds at every stop on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch

from cudeform.geometry import Padding, Pair, as_padding, as_pair
from cudeform.options import BOUNDARY_GRADS, Options, current

SCHEMA = "int[] settings"

Packed = tuple[int, ...]


class Settings(NamedTuple):
    """What the list says.

    Attributes:
        stride, dilation: vertical, horizontal.
        padding: ((top, bottom), (left, right)).
        boundary_grad: as in Options.
        assumed: boundary_grad was read from the options while compiling, and nobody would notice if
            the options changed; the forward looks.
        tuning: deterministic, allow_tf32, workspace_limit and num_threads, 0 for None. Empty: those
            in force when the operator runs.
    """

    stride: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]
    dilation: tuple[int, int]
    boundary_grad: Any
    assumed: bool
    tuning: Packed

    def options(self) -> Options:
        """The options to run under."""
        if self.tuning:
            return _options(self.boundary_grad, self.tuning)
        return _with(current(), self.boundary_grad)

    def check_assumed(self) -> None:
        """Refuse to run code that was compiled under another ``boundary_grad``.

        Raises:
            RuntimeError: the option has changed since.
        """
        if not self.assumed:
            return
        now = current().boundary_grad
        if now != self.boundary_grad:
            raise RuntimeError(
                f"this code was compiled while cudeform's option boundary_grad was "
                f'"{self.boundary_grad}", now it is "{now}": call torch.compiler.reset(), or give '
                "the layer its boundary_grad"
            )


def packed(
    stride: Pair, padding: Padding, dilation: Pair, boundary_grad: str | None = None
) -> Packed:
    """Settings of a call under the options in force; ``boundary_grad`` may overrule them."""
    if torch.compiler.is_compiling():
        assumed = boundary_grad is None and not torch.compiler.is_exporting()
        rule = _rule(boundary_grad or _boundary_grad())
        return *_sizes(stride, padding, dilation), rule, int(assumed)
    options = current()
    try:
        return _eager(stride, padding, dilation, boundary_grad, options)
    except TypeError:  # a list has no hash, and what is wrong may have none either
        return _eager.__wrapped__(stride, padding, dilation, boundary_grad, options)


@lru_cache(maxsize=256, typed=True)
def _eager(
    stride: Pair, padding: Padding, dilation: Pair, boundary_grad: str | None, options: Options
) -> Packed:
    rule = _rule(boundary_grad or options.boundary_grad)
    tuning = (
        int(options.deterministic),
        int(options.allow_tf32),
        options.workspace_limit or 0,
        options.num_threads or 0,
    )
    return *_sizes(stride, padding, dilation), rule, 0, *tuning


def _sizes(stride: Pair, padding: Padding, dilation: Pair) -> Packed:
    vertical, horizontal = as_padding(padding)
    return (
        *as_pair("stride", stride, 1),
        *vertical,
        *horizontal,
        *as_pair("dilation", dilation, 1),
    )


def unpacked(settings: Sequence[int]) -> Settings:
    """What a list says.

    Raises:
        ValueError: it is no such list.
    """
    return _unpacked(tuple(settings))


@lru_cache(maxsize=256)
def _unpacked(settings: Packed) -> Settings:
    if len(settings) not in (10, 14):
        raise ValueError(f"settings must be 10 or 14 integers, got {settings}")
    stride_h, stride_w, top, bottom, left, right, dilation_h, dilation_w, *rest = settings
    rule, assumed, *tuning = rest
    return Settings(
        stride=(stride_h, stride_w),
        padding=((top, bottom), (left, right)),
        dilation=(dilation_h, dilation_w),
        boundary_grad=BOUNDARY_GRADS[rule],
        assumed=bool(assumed),
        tuning=tuple(tuning),
    )


def _rule(boundary_grad: str) -> int:
    if boundary_grad not in BOUNDARY_GRADS:
        raise ValueError(f"boundary_grad must be one of {BOUNDARY_GRADS}, got {boundary_grad!r}")
    return BOUNDARY_GRADS.index(boundary_grad)


# Dynamo can read no context variable; it takes what this returns for a constant.
@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _boundary_grad() -> str:
    return current().boundary_grad


@lru_cache(maxsize=64)
def _options(boundary_grad: Any, tuning: Packed) -> Options:
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
