"""Packs settings and options into one list of integers for torch's dispatcher.

Autograd runs the backward in its own threads, where the caller's options are not in force. So an
operator receives the options of the forward as an argument, and passes them to its derivatives. All
non-tensor values form one argument, because each argument costs microseconds in every layer of the
dispatcher.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch

from cudeform.options import BOUNDARY_GRADS, Options, boundary_grad_of, current
from cudeform.spec import AnySettings, Operator

SCHEMA = "int[] static_args"

Packed = tuple[int, ...]


class StaticArgs(NamedTuple):
    """The contents of the list.

    Attributes:
        settings: settings of the call, as integers per axis.
        boundary_grad: as in Options.
        assumed: whether boundary_grad was read from the options while the call was compiled. torch
            does not recompile when the option changes, so the forward compares it.
        tuning: deterministic, allow_tf32, workspace_limit and num_threads, 0 for None. Empty in
            compiled calls, which take the options in force when they run.
    """

    settings: AnySettings
    boundary_grad: Any
    assumed: bool
    tuning: Packed

    def options(self) -> Options:
        """The options to run with."""
        if self.tuning:
            return _options(self.boundary_grad, self.tuning)
        return _with_boundary_grad(current(), self.boundary_grad)

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


def pack(operator: Operator, settings: AnySettings, boundary_grad: str | None = None) -> Packed:
    """Pack settings and the options in force; ``boundary_grad`` overrides the option."""
    if torch.compiler.is_compiling():
        assumed = boundary_grad is None and not torch.compiler.is_exporting()
        code = _boundary_grad_code(boundary_grad or _current_boundary_grad())
        return *settings.packed(operator.axes), code, int(assumed)
    options = current()
    try:
        return _pack_eager(operator, boundary_grad, options, *settings)
    except TypeError:  # a list has no hash, and an invalid argument may have none either
        return _pack_eager.__wrapped__(operator, boundary_grad, options, *settings)


@lru_cache(maxsize=256, typed=True)
def _pack_eager(
    operator: Operator, boundary_grad: str | None, options: Options, *settings: Any
) -> Packed:
    code = _boundary_grad_code(boundary_grad or options.boundary_grad)
    tuning = (
        int(options.deterministic),
        int(options.allow_tf32),
        options.workspace_limit or 0,
        options.num_threads or 0,
    )
    return *operator.settings(*settings).packed(operator.axes), code, 0, *tuning


def unpack(operator: Operator, static_args: Sequence[int]) -> StaticArgs:
    """Unpack a list.

    Raises:
        ValueError: the list has an impossible length.
    """
    return _unpack(operator, tuple(static_args))


@lru_cache(maxsize=256)
def _unpack(operator: Operator, packed: Packed) -> StaticArgs:
    length = operator.settings.length(packed, operator.axes)
    if len(packed) not in (length + 2, length + 6):
        raise ValueError(
            f"static_args must be {length + 2} or {length + 6} integers for {operator.name}, "
            f"got {packed}"
        )
    code, assumed, *tuning = packed[length:]
    return StaticArgs(
        settings=operator.settings.unpacked(packed[:length], operator.axes),
        boundary_grad=BOUNDARY_GRADS[code],
        assumed=bool(assumed),
        tuning=tuple(tuning),
    )


def of_examples(operator: Operator, static_args: Sequence[int], count: int) -> Sequence[int]:
    """The list for ``count`` calls that are merged into one, each with its own groups.

    The operator must have filters.
    """
    length = operator.settings.length(tuple(static_args), operator.axes)
    settings: Any = operator.settings.unpacked(tuple(static_args[:length]), operator.axes)
    return [*settings.of_examples(count).packed(operator.axes), *static_args[length:]]


def _boundary_grad_code(boundary_grad: str) -> int:
    return BOUNDARY_GRADS.index(boundary_grad_of(boundary_grad))


# Dynamo cannot read a context variable, so it treats the result of this function as a constant.
@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _current_boundary_grad() -> str:
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
def _with_boundary_grad(options: Options, boundary_grad: Any) -> Options:
    return replace(options, boundary_grad=boundary_grad)
