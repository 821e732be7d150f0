"""The options of calls: one dataclass, set for the whole process or inside a ``with`` block."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

BoundaryGrad = Literal["one_sided", "zero"]

BOUNDARY_GRADS: tuple[BoundaryGrad, ...] = ("one_sided", "zero")

# The convention for each accepted name: its own name, or that of a library that follows it.
BOUNDARY_GRAD_OF: dict[str, BoundaryGrad] = {
    "one_sided": "one_sided",
    "zero": "zero",
    "torchvision": "one_sided",
    "mmcv": "zero",
}


@dataclass(frozen=True)
class Options:
    """The options of a call.

    Attributes:
        deterministic: make GPU gradients bit-identical run after run. CPU gradients always are,
            for any number of threads.
        allow_tf32: float32 products on the GPU may use TF32 tensor cores (10-bit mantissa).
        workspace_limit: maximum number of bytes of scratch memory, in addition to the inputs, the
            outputs and one channels-last copy of an image (two in the backward). ``None`` means
            64 MiB on the CPU and a fraction of the free memory on a GPU.
        boundary_grad: gradient of the offset for a sample at coordinate -1, exactly one pixel
            outside the image. ``"one_sided"`` is the slope towards the image, as in torchvision;
            ``"zero"`` is 0, as in mmcv, Paddle and MXNet. The names ``"torchvision"`` and
            ``"mmcv"`` are accepted too.
        num_threads: number of threads of the CPU engine. ``None`` means one for each core that the
            process may use, and one in a task of Dask.
        max_displacement: bound of the offsets of Dask arrays, in pixels: a number, one number per
            axis, or a pair (back, forward) per axis. It is needed if an offset has several chunks
            in space, and has no effect on other arrays.
    """

    deterministic: bool = False
    allow_tf32: bool = False
    workspace_limit: int | None = None
    boundary_grad: BoundaryGrad = "one_sided"
    num_threads: int | None = None
    max_displacement: Any = None

    def __post_init__(self) -> None:
        """Check the values, and replace the name of a library by that of its convention."""
        for name in ("deterministic", "allow_tf32"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, got {getattr(self, name)!r}")
        for name in ("workspace_limit", "num_threads"):
            _check_positive_or_none(name, getattr(self, name))
        object.__setattr__(self, "boundary_grad", boundary_grad_of(self.boundary_grad))
        object.__setattr__(self, "max_displacement", _displacements(self.max_displacement))


def boundary_grad_of(value: object) -> BoundaryGrad:
    """Return the convention for its own name or for the name of a library that follows it.

    Raises:
        ValueError: ``value`` is not an accepted name.
    """
    for name, convention in BOUNDARY_GRAD_OF.items():
        if value == name:
            return convention
    raise ValueError(f"boundary_grad must be one of {(*BOUNDARY_GRAD_OF,)}, got {value!r}")


def _check_positive_or_none(name: str, value: object) -> None:
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be a positive integer or None, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be a positive integer or None, got {value}")


def _displacements(value: Any) -> Any:
    """Check that all numbers are at least 0; convert arrays and lists to tuples."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if value is None:
        return None
    if isinstance(value, (tuple, list)):
        return tuple(map(_displacements, value))
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"max_displacement must be made of numbers, got {value!r}")
    if not value >= 0:
        raise ValueError(f"max_displacement must be at least 0, got {value}")
    return value


def available_threads() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_process_wide = Options()
_chosen: ContextVar[Options | None] = ContextVar("cudeform_options", default=None)


def current() -> Options:
    """The options of the innermost ``options`` block, or of the process outside any block."""
    return _chosen.get() or _process_wide


def _changed(base: Options, changes: dict[str, Any]) -> Options:
    names = [field.name for field in fields(Options)]
    for name in changes:
        if name not in names:
            raise TypeError(f"an option must be one of {', '.join(names)}, got {name!r}")
    return replace(base, **changes)


@contextmanager
def options(**changes: Any) -> Iterator[Options]:
    """Change options for the calls inside a ``with`` block, in this thread or task only.

    Args:
        **changes: fields of :class:`Options` and their new values; other fields do not change.

    Yields:
        The options that apply inside the block.

    Raises:
        TypeError: a name is not an option, or a value has the wrong type.
        ValueError: a value is out of range.

    Example:
        >>> import cudeform
        >>> with cudeform.options(num_threads=1, boundary_grad="zero") as chosen:
        ...     chosen.num_threads
        1
    """
    token = _chosen.set(_changed(current(), changes))
    try:
        yield current()
    finally:
        _chosen.reset(token)


def set_options(**changes: Any) -> None:
    """Change options for the whole process, except inside ``options`` blocks.

    Takes the arguments of :func:`options` and raises its errors.

    Example:
        >>> import cudeform
        >>> cudeform.set_options(deterministic=True)
        >>> cudeform.set_options(deterministic=False)
    """
    global _process_wide
    _process_wide = _changed(_process_wide, changes)
