"""Compilation of the loops by Numba, and the cache on disk for the compiled loops.

This is the only module that imports Numba. It is imported by the first call on NumPy arrays, so
``import cudeform`` and calls on GPU arrays do not need Numba.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar

from cudeform.cpu.loops import lock

try:
    import numba
    from numba.core import event
    from numba.extending import intrinsic
except Exception as error:  # with an unknown Python or NumPy, Numba raises any kind of error
    raise ImportError(
        f"cudeform computes on the CPU with Numba, which cannot be imported here ({error}): "
        "pip install -U numba, or use an older Python if Numba does not support this one yet; "
        "arrays on a GPU need no Numba"
    ) from error

NUMBA: str = numba.__version__


def _import_arrays_of_numba() -> None:
    """Import Numba's functions of arrays without the linear algebra of SciPy.

    If SciPy is installed, they import ``scipy.linalg`` to see whether there is a BLAS. This takes
    longer than ``import cudeform`` and starts one more pool of BLAS threads, all for functions that
    no loop calls. A caller's own functions still import it when they are compiled. A Numba whose
    modules have other names imports SciPy as it likes.
    """
    try:
        linalg: Any = importlib.import_module("numba.np.linalg")
        ensure_blas = linalg.ensure_blas
    except (ImportError, AttributeError):
        return
    linalg.ensure_blas = lambda: None
    try:
        arrays: Any = importlib.import_module("numba.np.arraymath")
        arrays.ensure_blas = ensure_blas
    except ImportError:
        pass
    finally:
        linalg.ensure_blas = ensure_blas


_import_arrays_of_numba()

P = ParamSpec("P")
T = TypeVar("T")

# "contract" allows fused multiply-adds and nothing else: NaN, infinities and the order of sums are
# those of the source text.
FLAGS: dict[str, Any] = {
    "nogil": True,
    "boundscheck": False,
    "error_model": "numpy",
    "fastmath": {"contract"},
}

_lock = threading.Lock()


def inlined(function: Callable[P, T]) -> Callable[P, T]:
    """Mark a function that only loops call; it is inlined into each of them.

    It has no wrappers for calls from Python, which halves its compile time.
    """
    compiled: Callable[P, T] = numba.njit(
        forceinline=True, no_cpython_wrapper=True, no_cfunc_wrapper=True, **FLAGS
    )(function)
    return compiled


def instruction(function: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a function that generates LLVM instructions for the types of its arguments."""
    made: Callable[..., Any] = intrinsic(function)
    return made


def loop(function: Callable[P, T]) -> Callable[P, T]:
    """Mark a function that Python calls; the first call with a dtype compiles it."""
    return Loop(function, cache_folder())


class Loop(Generic[P, T]):
    """A function that its first call compiles; the result is cached if a folder can be written."""

    def __init__(self, function: Callable[P, T], folder: Path | None) -> None:
        self.function = function
        self.compiled = _cached_on_disk(function, folder) or numba.njit(**FLAGS)(function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the compiled function."""
        try:
            result: T = self.compiled(*args, **kwargs)
        except OSError as error:  # for example, the disk is full
            _warn(f"{cache_folder()}: {error.strerror}")
            self.compiled = numba.njit(**FLAGS)(self.function)
            result = self.compiled(*args, **kwargs)
        return result


def _cached_on_disk(function: Callable[P, T], folder: Path | None) -> Any:
    """A function whose compiled form is cached in a folder; None if it cannot be cached."""
    if folder is None:
        return None
    with _lock:
        before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(folder)
        try:
            dispatcher = numba.njit(cache=True, **FLAGS)(function)
        except RuntimeError:  # Numba finds no source file, as in a frozen application
            return None
        finally:
            numba.config.CACHE_DIR = before
    _compile_once(dispatcher, folder / f"{function.__module__}.{function.__qualname__}.lock")
    return dispatcher


def _compile_once(dispatcher: Any, lock_file: Path) -> None:
    """Let other processes wait while this one compiles or loads; then they find it in the cache."""
    compile_or_load = dispatcher.compile

    def locked(signature: Any) -> Any:
        with lock.held(lock_file):
            return compile_or_load(signature)

    dispatcher.compile = locked


@cache
def cache_folder() -> Path | None:
    """The folder of compiled loops; None if it cannot be written.

    Numba recompiles a loop when the file of the loop changes, but not when a file of the functions
    inlined into it changes. The last part of the folder's name is therefore a hash of all files.
    """
    try:
        folder = cache_parent() / _fingerprint()
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, RuntimeError):  # Path.home() fails if the user has no home directory
        return None
    return folder


def cache_parent() -> Path:
    """Numba's cache folder if the environment names one, else the user's folder for caches."""
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
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


@cache  # once for each reason, not for each loop
def _warn(why: str) -> None:
    warnings.warn(
        f"cudeform cannot cache its compiled loops ({why}): every process compiles them again, "
        "which takes some seconds; set NUMBA_CACHE_DIR to a writable folder",
        RuntimeWarning,
        stacklevel=3,
    )


class _Announcement(event.Listener):  # type: ignore[misc]
    """Says once that loops are being compiled, and warns if they cannot be cached."""

    said = False

    def on_start(self, event: Any) -> None:
        ours = event.data["dispatcher"].py_func.__module__.startswith(__package__)
        if self.said or not ours:
            return
        self.said = True
        if cache_folder() is None:
            _warn("no folder is writable")
        elif sys.stderr.isatty():
            text = f"cudeform: compiling loops for this processor, once; cached in {cache_folder()}"
            print(text, file=sys.stderr)

    def on_end(self, event: Any) -> None:
        """Say nothing when compilation ends."""


event.register("numba:compile", _Announcement())
