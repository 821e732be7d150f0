"""The processor, the BLAS libraries and the compiled loops, with advice for faster settings."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import threadpoolctl

from cudeform.options import available_threads

# The AVX-512 extensions that OpenBLAS's SkylakeX kernels require.
AVX512 = frozenset({"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"})

# OpenBLAS's x86 kernel sets without AVX-512. Any other kernel set may use AVX-512, so there is no
# remark about it.
KERNELS_WITHOUT_AVX512 = frozenset({"Prescott", "Nehalem", "Sandybridge", "Haswell", "Zen"})

# Prefixes of the environment variables that affect the speed of BLAS and threading libraries.
OBEYED = ("OPENBLAS_", "BLIS_", "MKL_", "OMP_", "GOMP_", "KMP_", "NUMBA_")


@dataclass(frozen=True)
class Blas:
    """A BLAS library in this process.

    Attributes:
        name: such as "openblas".
        version: the version that the library reports.
        owner: the package that contains the library, or else its file name.
        kernels: the processor that its kernels target; None if not reported.
        threads: the number of threads it uses; None if not reported.
    """

    name: str
    version: str | None
    owner: str
    kernels: str | None = None
    threads: int | None = None

    def __str__(self) -> str:
        """Name, version, owner, kernel set and threads."""
        threads = f", threads: {self.threads}" if self.threads else ""
        return f"{self.title}, kernel set {self.kernels or 'not known'}{threads}"

    @property
    def title(self) -> str:
        """Name, version and owner."""
        return f"{self.name} {self.version or '(version not known)'} of {self.owner}"


@dataclass(frozen=True)
class Machine:
    """The processor and the BLAS libraries of this process.

    Attributes:
        processor: its name.
        cores: number of cores that this process may use.
        blas: the BLAS libraries in this process.
        environment: the variables set for BLAS and threading libraries.
        remarks: problems that cost speed, each with its remedy.
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
        """Make a machine from the output of ``dataclasses.asdict``."""
        blas = tuple(Blas(**library) for library in fields["blas"])
        return cls(**{**fields, "blas": blas, "remarks": tuple(fields["remarks"])})

    def __str__(self) -> str:
        """One line for the processor, one for each BLAS library, one for the environment."""
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
    """The state of the compiled loops of the CPU engine.

    Attributes:
        numba: version of the Numba that compiles the loops; None if it cannot be imported.
        folder: the folder that caches the compiled loops; None if no folder is writable.
        failure: why Numba cannot be imported, with the remedy; empty if it can.
    """

    numba: str | None
    folder: Path | None = None
    failure: str = ""

    @classmethod
    def here(cls) -> Loops:
        """The loops of this process."""
        try:
            from cudeform.cpu.loops import jit
        except ImportError as error:
            return cls(None, failure=str(error))
        return cls(jit.NUMBA, jit.cache_folder())

    def __str__(self) -> str:
        """Numba's version and the cache folder."""
        if self.numba is None:
            return "loops: not compiled"
        cached = f"cached in {self.folder}" if self.folder else "not cached"
        return (
            f"loops: compiled by Numba {self.numba}, {cached}; they run on cudeform's own threads"
        )

    @property
    def remarks(self) -> tuple[str, ...]:
        """Problems that cost speed, each with its remedy."""
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
    """Remark on each OpenBLAS library that does not use the AVX-512 of the processor.

    Args:
        flags: the processor's CPU flags, as in Linux's ``/proc/cpuinfo``.
        blas: the libraries to check.
        environment: environment variables; OPENBLAS_CORETYPE chooses the kernels.
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
    """The package of a shared library in a wheel's PACKAGE.libs folder, or else its file name."""
    folder, dot, _ = library.parent.name.rpartition(".libs")
    return folder if dot else library.name


def _cpuinfo() -> dict[str, str]:
    """The first processor's fields in ``/proc/cpuinfo``; empty if that file cannot be read."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}
