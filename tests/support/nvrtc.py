"""Compiles a text by NVRTC, as CuPy does; needs no GPU."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

# Architectures for which many variants are compiled. Only NVRTC 12 and older support sm_70.
ARCHS = (70, 75, 80, 86, 89, 90, 100, 120)
# Relatives of these, for which one variant of each kernel is compiled.
RELATED_ARCHS = (87, 103, 121)

# The options that CuPy and gpu/cuda/device.py add, and an option for the assembler's report.
OPTIONS = ("-ftz=true", "--device-as-default-execution-space", "-std=c++17")
VERBOSE = "--ptxas-options=-v"


def library_path() -> Path | None:
    """NVRTC of the newest installed ``nvidia-cuda-nvrtc`` wheel, None if none is installed."""
    spec = find_spec("nvidia")
    folders = spec.submodule_search_locations if spec else None
    found = [path for folder in folders or () for path in Path(folder).glob("*/lib/libnvrtc.so.*")]
    return max(found, key=lambda path: int(path.suffix[1:]), default=None)


@cache
def _library() -> ctypes.CDLL:
    path = library_path()
    assert path is not None
    # NVRTC opens this library by its name alone, and some releases do not search their own folder.
    for builtins in path.parent.glob("libnvrtc-builtins.so.*"):
        ctypes.CDLL(str(builtins))
    return ctypes.CDLL(str(path))


def version() -> str:
    """The version of NVRTC, such as 13.0."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check(_library().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
    return f"{major.value}.{minor.value}"


def archs(among: Sequence[int] = ARCHS) -> list[int]:
    """The given architectures for which this NVRTC compiles."""
    count = ctypes.c_int()
    _check(_library().nvrtcGetNumSupportedArchs(ctypes.byref(count)))
    supported = (ctypes.c_int * count.value)()
    _check(_library().nvrtcGetSupportedArchs(supported))
    return [arch for arch in among if arch in set(supported)]


def _check(status: int) -> None:
    if status:
        _library().nvrtcGetErrorString.restype = ctypes.c_char_p
        raise RuntimeError(_library().nvrtcGetErrorString(status).decode())


def compiled(source: str, arch: int) -> tuple[bool, str]:
    """Compile a text to machine code; return whether that succeeded, and the log."""
    succeeded, log, _ = _compiled(source, arch)
    return succeeded, log


def machine_code(source: str, arch: int) -> bytes:
    """The cubin of a text."""
    succeeded, log, code = _compiled(source, arch)
    if not succeeded:
        raise RuntimeError(log)
    return code


def _compiled(source: str, arch: int) -> tuple[bool, str, bytes]:
    lib, program = _library(), ctypes.c_void_p()
    _check(lib.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"", 0, None, None))
    try:
        options = [option.encode() for option in (f"-arch=sm_{arch}", *OPTIONS, VERBOSE)]
        array = (ctypes.c_char_p * len(options))(*options)
        status = lib.nvrtcCompileProgram(program, len(options), array)
        size = ctypes.c_size_t()
        _check(lib.nvrtcGetProgramLogSize(program, ctypes.byref(size)))
        log = ctypes.create_string_buffer(size.value)
        _check(lib.nvrtcGetProgramLog(program, log))
        code = ctypes.create_string_buffer(0)
        if status == 0:
            _check(lib.nvrtcGetCUBINSize(program, ctypes.byref(size)))
            code = ctypes.create_string_buffer(size.value)
            _check(lib.nvrtcGetCUBIN(program, code))
        return status == 0, log.value.decode(), code.raw
    finally:
        lib.nvrtcDestroyProgram(ctypes.byref(program))
