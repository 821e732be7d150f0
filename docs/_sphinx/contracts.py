"""The contracts that kernel files begin with, for the page on kernels."""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path


def write_contracts(kernels: Path, output: Path) -> None:
    """Write ``contracts_cu.rst`` and ``contracts_cuh.rst``, each file with its contract."""
    output.mkdir(exist_ok=True)
    for suffix in ("cu", "cuh"):
        parts = [_section(file) for file in sorted(kernels.glob(f"*/*.{suffix}"))]
        (output / f"contracts_{suffix}.rst").write_text("\n".join(parts), encoding="utf-8")


def _section(file: Path) -> str:
    lines = file.read_text(encoding="utf-8").splitlines()
    contract = takewhile(lambda line: line.startswith("//"), lines)
    text = "\n".join(f"    {line[3:]}".rstrip() for line in contract)
    return f"``{file.parent.name}/{file.name}``\n\n.. code-block:: text\n\n{text}\n"
