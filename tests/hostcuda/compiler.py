"""Compiles the text of a kernel to a shared library, by the host's C++ compiler, with a cache."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from cudeform.gpu.device_api.commands import Kernel

HERE = Path(__file__).parent

FLAGS = (
    *("-std=c++17", "-Og", "-g1", "-fPIC", "-shared", "-fvisibility=hidden"),
    *("-fno-exceptions", "-fno-rtti", "-fno-strict-aliasing"),
    "-ffp-contract=off",  # fused multiply-adds only where the text has them
    # Undefined arithmetic calls functions of a sanitizer library; faults.h defines them instead.
    "-fsanitize=bounds-strict,float-cast-overflow,signed-integer-overflow,shift,"
    "integer-divide-by-zero,alignment",
    *("-fno-sanitize-recover=all", "-nodefaultlibs"),
    # An accidental double is slow on a GPU.
    *("-Wall", "-Wextra", "-Wdouble-promotion", "-Werror", "-Wframe-larger-than=32768"),
    # A variant of a text may not use all that the text declares.
    *("-Wno-unused-function", "-Wno-unused-parameter", "-Wno-unused-variable"),
    *("-Wno-sign-compare", "-Wno-unknown-pragmas"),  # threadIdx is unsigned; #pragma unroll
)

# The files of a text that are inline PTX: from their own #line to the next.
_PTX = re.compile(
    r'^#line 1 "common/(?:tensor_core_)?ptx\.cuh"$.*?(?=^#line 1 )', re.DOTALL | re.MULTILINE
)

# Calls before every access, which races.h defines.
WATCH_RACES = ("-DHOSTCUDA_RACES", "-fsanitize=thread")


class CompileError(RuntimeError):
    """The text of a kernel does not compile."""


def compiler_path() -> str | None:
    """Path of the C++ compiler, g++ or what ``CXX`` says; None if there is none."""
    return shutil.which(os.environ.get("CXX", "g++"))


def compiled(kernel: Kernel, more_flags: tuple[str, ...] = ()) -> Path:
    """The shared library of a kernel, from the cache or compiled now.

    Several processes may compile the same one at a time: each writes its own file, and the last to
    rename it wins.
    """
    text = "\n".join(
        [
            '#include "shim.h"',
            "namespace {",  # internal linkage, so that unused functions are dropped
            _PTX.sub("", kernel.source),  # the shim has the same functions in C++
            "}",
            '#line 1 "entry"',
            f"#define HOSTCUDA_KERNEL {kernel.name}",
            '#include "entry.h"',
            "",
        ]
    )
    flags = (*FLAGS, *more_flags)
    path = _folder() / f"{kernel.name}-{_key(text, flags)}.so"
    if not path.exists():
        prepared = _prepared(flags)
        libraries = [str(prepared / "runtime.o"), "-lc", "-lm", "-lrt", "-lgcc"]
        include = [f"-I{prepared}", f"-I{HERE}"]
        _compile(text, [*flags, *include, "-x", "c++", "-", "-x", "none", *libraries], path)
    return path


@cache
def _prepared(flags: tuple[str, ...]) -> Path:
    """A folder with what all kernels share: the compiled runtime, and the precompiled shim.

    They halve the compilation time of a kernel. A compiler that cannot use the precompiled shim
    reads the header itself from the next folder.
    """
    folder = _folder() / f"shared-{_key('', flags)}"
    header = ("-w", "-x", "c++-header", str(HERE / "shim.h"))  # -w: a header is the main file
    for name, arguments in {
        "shim.h.gch": header,
        "runtime.o": ("-c", str(HERE / "runtime.cc")),
    }.items():
        if not (folder / name).exists():
            _compile("", [*flags, *arguments], folder / name)
    return folder


def _key(text: str, flags: tuple[str, ...]) -> str:
    key = "\0".join([text, *flags, _harness_text(), _compiler_version()])
    return hashlib.sha256(key.encode()).hexdigest()[:24]


def _compile(text: str, arguments: list[str], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, unfinished = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    os.close(handle)
    command = [compiler_path() or "g++", *arguments, "-o", unfinished]
    try:
        english = {**os.environ, "LC_ALL": "C"}
        run = subprocess.run(
            command, input=text, text=True, capture_output=True, check=False, env=english
        )
        if run.returncode != 0:
            raise CompileError(f"{path.name}:\n{run.stderr}")
        os.replace(unfinished, path)
    finally:
        Path(unfinished).unlink(missing_ok=True)


def _folder() -> Path:
    cache_home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache_home) / "cudeform" / "hostcuda"


@cache
def _harness_text() -> str:
    files = [*sorted(HERE.glob("*.h")), HERE / "runtime.cc"]
    return "".join(path.read_text(encoding="utf-8") for path in files)


@cache
def _compiler_version() -> str:
    command = [compiler_path() or "g++", "--version"]
    return subprocess.run(command, text=True, capture_output=True, check=True).stdout
