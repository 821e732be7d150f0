"""The processor of this machine, the BLAS of this process, and what could be better about them."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import threadpoolctl

from cudeform.options import available_threads

# The parts of AVX-512 that OpenBLAS's SkylakeX kernels are compiled for.
AVX512 = frozenset({"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"})

# What OpenBLAS takes on x86 where it does not use them. A kernel set that is not listed may, so
# nothing is said about it.
KERNELS_WITHOUT_AVX512 = frozenset({"Prescott", "Nehalem", "Sandybridge", "Haswell", "Zen"})

# First parts of the names of variables that decide how fast a library of this process is.
OBEYED = ("OPENBLAS_", "BLIS_", "MKL_", "OMP_", "GOMP_", "KMP_", "NUMBA_")


@dataclass(frozen=True)
class Blas:
    """A BLAS library in this process.

    Attributes:
        name: such as "openblas".
        version: as it says itself.
        owner: the package or file that brought it.
        kernels: the processor its kernels were written for, None where it does not say.
        threads: how many it uses, None where it does not say.
    """

    name: str
    version: str | None
    owner: str
    kernels: str | None = None
    threads: int | None = None

    def __str__(self) -> str:
        """All that is known of it."""
        threads = f", threads: {self.threads}" if self.threads else ""
        return f"{self.title}, kernel set {self.kernels or 'not known'}{threads}"

    @property
    def title(self) -> str:
        """Name, version and owner."""
        return f"{self.name} {self.version or '(version not known)'} of {self.owner}"


@dataclass(frozen=True)
class Machine:
    """The processor, and what multiplies matrices on it.

    Attributes:
        processor: its name.
        cores: how many this process may use.
        blas: the BLAS libraries in this process.
        environment: the variables that libraries of threads and matrices obey, as far as set.
        remarks: what could be better, each with its remedy.
    """

    processor: str
    cores: int
    blas: tuple[Blas, ...]
    environment: dict[str, str]
    remarks: tuple[str, ...]

    @classmethod
    def here(cls) -> Machine:
        """The machine this process runs on."""
        cpu = _cpuinfo()
        blas = blas_libraries()
        environment = {
            name: value for name, value in sorted(os.environ.items()) if name.startswith(OBEYED)
        }
        flags = cpu.get("flags", "").split()
        return cls(
            processor=cpu.get("model name") or platform.processor() or platform.machine(),
            cores=available_threads(),
            blas=blas,
            environment=environment,
            remarks=tuple(avx512_remarks(flags, blas, environment)),
        )

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Machine:
        """A machine from the fields that ``dataclasses.asdict`` gave."""
        blas = tuple(Blas(**library) for library in fields["blas"])
        return cls(**{**fields, "blas": blas, "remarks": tuple(fields["remarks"])})

    def __str__(self) -> str:
        """A line each for the processor, every BLAS and the environment."""
        lines = [f"{self.processor}, cores for this process: {self.cores}"]
        lines += [str(library) for library in self.blas]
        if self.environment:
            settings = (f"{name}={value}" for name, value in self.environment.items())
            lines.append(f"environment: {' '.join(settings)}")
        return "\n".join(lines)


def blas_libraries() -> tuple[Blas, ...]:
    """The BLAS libraries in this process."""
    return tuple(
        Blas(
            name=library["internal_api"],
            version=library["version"],
            owner=_owner(Path(library["filepath"])),
            kernels=library.get("architecture"),
            threads=library["num_threads"],
        )
        for library in threadpoolctl.threadpool_info()
        if library["user_api"] == "blas"
    )


@dataclass(frozen=True)
class Loops:
    """The loops of the CPU engine.

    Attributes:
        numba: version of the Numba that compiles them; None where it cannot be imported.
        folder: where they are kept; None where no folder can be written.
        failure: why Numba cannot be imported, and what to do.
    """

    numba: str | None
    folder: Path | None = None
    failure: str = ""

    @classmethod
    def here(cls) -> Loops:
        """Those of this process."""
        try:
            from cudeform.cpu.loops import jit
        except ImportError as error:
            return cls(None, failure=str(error))
        return cls(jit.NUMBA, jit.cache_folder())

    def __str__(self) -> str:
        """All that is known of them."""
        if self.numba is None:
            return "loops: not compiled"
        kept = f"kept in {self.folder}" if self.folder else "not kept"
        return f"loops: compiled by Numba {self.numba}, {kept}; they run on cudeform's own threads"

    @property
    def remarks(self) -> tuple[str, ...]:
        """What could be better."""
        if self.failure:
            return (self.failure,)
        if self.folder is None:
            return (
                "No folder for compiled loops can be written: every process compiles them again. "
                "Set NUMBA_CACHE_DIR to one that can.",
            )
        return ()


def avx512_remarks(
    flags: Iterable[str], blas: Iterable[Blas], environment: Mapping[str, str]
) -> Iterator[str]:
    """Say where the processor has AVX-512 and OpenBLAS does not use it.

    Args:
        flags: what the processor can do, as Linux names it.
        blas: the libraries to look at.
        environment: of this process; OPENBLAS_CORETYPE chooses the kernels.
    """
    if not AVX512.issubset(flags):
        return
    for library in blas:
        if library.name != "openblas" or library.kernels not in KERNELS_WITHOUT_AVX512:
            continue
        remedy = "Set OPENBLAS_CORETYPE=SkylakeX in the environment before Python starts."
        chosen = environment.get("OPENBLAS_CORETYPE", "")
        if chosen.lower() == library.kernels.lower():
            remedy = f"OPENBLAS_CORETYPE={chosen} in the environment asks for them: remove it."
        yield (
            f"The processor has AVX-512, but {library.title} runs its {library.kernels} kernels, "
            f"which do not use it: matrix products may take twice the time. {remedy}"
        )


def _owner(library: Path) -> str:
    """The package that brought a shared library: wheels keep theirs in a folder PACKAGE.libs."""
    folder, dot, _ = library.parent.name.rpartition(".libs")
    return folder if dot else library.name


def _cpuinfo() -> dict[str, str]:
    """What Linux says about the first processor; empty elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}
