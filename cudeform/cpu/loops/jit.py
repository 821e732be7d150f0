"""How the loops are compiled: by Numba, once on a machine, and kept in a folder of the user's.

The engine is imported by the first call on NumPy arrays, and this is the module that imports Numba:
neither ``import cudeform`` nor arrays on a GPU need it.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar

try:
    import numba
    from numba.core import event
    from numba.extending import intrinsic
except Exception as error:  # beside a Python or a NumPy that it does not know, Numba fails anyhow
    raise ImportError(
        f"cudeform computes on the CPU with Numba, which cannot be imported here ({error}): "
        "pip install -U numba, or take an older Python if Numba does not support this one yet; "
        "arrays on a GPU need no Numba"
    ) from error

NUMBA: str = numba.__version__

P = ParamSpec("P")
T = TypeVar("T")

# "contract" allows fused multiply-adds and nothing else: NaN, infinities and the order of sums stay
# as they are written.
FLAGS: dict[str, Any] = {
    "nogil": True,
    "boundscheck": False,
    "error_model": "numpy",
    "fastmath": {"contract"},
}

_lock = threading.Lock()


def inlined(function: Callable[P, T]) -> Callable[P, T]:
    """A function that only loops call; it becomes part of each of them.

    Without the wrappers that Python would call it through, it compiles in half the time.
    """
    compiled: Callable[P, T] = numba.njit(
        forceinline=True, no_cpython_wrapper=True, no_cfunc_wrapper=True, **FLAGS
    )(function)
    return compiled


def instruction(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that writes LLVM's instructions itself, given the types of its arguments."""
    made: Callable[..., Any] = intrinsic(function)
    return made


def loop(function: Callable[P, T]) -> Callable[P, T]:
    """A function that Python calls, compiled for the dtype of its arrays when first called."""
    return Loop(function, cache_folder())


class Loop(Generic[P, T]):
    """A function that is compiled when first called, and kept if there is a folder for it."""

    def __init__(self, function: Callable[P, T], folder: Path | None) -> None:
        self.function = function
        self.compiled = _cached_on_disk(function, folder) or numba.njit(**FLAGS)(function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call it."""
        try:
            result: T = self.compiled(*args, **kwargs)
        except OSError as error:  # no more room in the folder, for one
            _warn(f"{cache_folder()}: {error.strerror}")
            self.compiled = numba.njit(**FLAGS)(self.function)
            result = self.compiled(*args, **kwargs)
        return result


def _cached_on_disk(function: Callable[P, T], folder: Path | None) -> Any:
    """A function that is kept in a folder once it is compiled, or None where that cannot be."""
    if folder is None:
        return None
    with _lock:
        before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(folder)
        try:
            return numba.njit(cache=True, **FLAGS)(function)
        except RuntimeError:  # Numba finds no source file, as in a frozen application
            return None
        finally:
            numba.config.CACHE_DIR = before


@cache
def cache_folder() -> Path | None:
    """Where compiled loops are kept; None where no such folder can be written.

    Numba compares the age of the file that a loop is written in, not of those that it takes
    functions from. The last part of the name stands for the text of all of them.
    """
    try:
        folder = cache_parent() / _fingerprint()
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, RuntimeError):  # there may be no home at all
        return None
    return folder


def cache_parent() -> Path:
    """Numba's folder if the environment names one, else a folder of the user's for caches."""
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    if chosen:
        return Path(chosen) / "cudeform"
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "cudeform" / "numba"


def _fingerprint() -> str:
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


@cache  # once for each reason, not for each loop
def _warn(why: str) -> None:
    warnings.warn(
        f"cudeform cannot keep its compiled loops ({why}): every process compiles them again, "
        "which takes some seconds; set NUMBA_CACHE_DIR to a folder that can be written",
        RuntimeWarning,
        stacklevel=3,
    )


class _Announcement(event.Listener):  # type: ignore[misc]
    """Says once that loops are being compiled, and why that will happen again if it will."""

    said = False

    def on_start(self, event: Any) -> None:
        ours = event.data["dispatcher"].py_func.__module__.startswith(__package__)
        if self.said or not ours:
            return
        self.said = True
        if cache_folder() is None:
            _warn("no folder can be written")
        elif sys.stderr.isatty():
            text = f"cudeform: compiling loops for this processor, once; kept in {cache_folder()}"
            print(text, file=sys.stderr)

    def on_end(self, event: Any) -> None:
        """Nothing is said when it is done."""


event.register("numba:compile", _Announcement())
