"""The GPUs that CuPy finds, whether cudeform works on them, and remedies if it does not."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cudeform.gpu.cuda.device import GpuUnavailableError, usable_cupy

# This file exists once Linux has loaded NVIDIA's driver.
DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Gpus:
    """The GPUs of this machine.

    Attributes:
        found: names of the GPUs, or the reason why there is none.
        facts: versions and folders that matter for compiling kernels.
        outcome: the outcome of a small call on a GPU.
        works: False if there is a GPU and the call failed on it.
        remarks: remedies, one sentence each.
    """

    found: str
    facts: tuple[str, ...] = ()
    outcome: str = "not here"
    works: bool = True
    remarks: tuple[str, ...] = ()

    @classmethod
    def here(cls, small_call_is_right: Callable[[Any], bool]) -> Gpus:
        """Find the GPUs; ``small_call_is_right(cupy)`` runs cudeform on CuPy arrays."""
        found, facts = gpu(), tuple(gpu_facts())
        try:
            cupy = usable_cupy()
        except GpuUnavailableError as error:
            # Without a driver and without CuPy there is probably no GPU, so there is no remedy.
            missed = DRIVER.exists() or find_spec("cupy") is not None
            outcome = "not here" if missed else f"not here: {error}"
            return cls(found, facts, outcome, remarks=(f"{error}.",) if missed else ())
        # CuPy, its compiler and its libraries raise exceptions of many types.
        try:
            works = small_call_is_right(cupy)
            outcome = "a small convolution came out " + ("right" if works else "wrong")
        except Exception as error:
            works, outcome = False, f"a small convolution failed: {error}"
        remedy = "Run python -m cudeform check, and report what it prints with this note."
        return cls(found, facts, outcome, works, () if works else (remedy,))


def gpu() -> str:
    """Describe the GPUs that CuPy finds. Imports CuPy."""
    if find_spec("cupy") is None:
        return "no CuPy installed"
    # Without a suitable driver CuPy raises exceptions of many types.
    try:
        import cupy

        count = cupy.cuda.runtime.getDeviceCount()
        names = [cupy.cuda.runtime.getDeviceProperties(device)["name"] for device in range(count)]
    except Exception as error:
        return f"CuPy finds no GPU: {error}"
    return ", ".join(name.decode() for name in names) or "CuPy finds no GPU"


def gpu_facts() -> list[str]:
    """Versions and folders that matter for compiling kernels, as reported by CuPy."""
    if find_spec("cupy") is None:
        return []
    import cupy

    cache = os.environ.get("CUPY_CACHE_DIR") or Path.home() / ".cupy" / "kernel_cache"
    facts = [f"compiled kernels are cached in {cache}"]
    questions: dict[str, Callable[[], Any]] = {
        "driver for CUDA": lambda: cupy.cuda.runtime.driverGetVersion(),
        "NVRTC": lambda: cupy.cuda.nvrtc.getVersion(),
    }
    for name, ask in questions.items():
        # A missing or incompatible library raises its own type of exception.
        try:
            answer = ask()
        except Exception as error:
            facts.append(f"{name}: {str(error).splitlines()[0]}")
            continue
        if name == "driver for CUDA" and not answer:
            facts.append("no driver")
            continue
        major, minor = answer if isinstance(answer, tuple) else divmod(answer // 10, 100)
        facts.append(f"{name} {major}.{minor}")
    return facts
