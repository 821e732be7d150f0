"""Compare the speed of cudeform with other libraries.

The benchmark is the folder ``benchmarks/`` of the repository and is not installed with the package.
In a checkout this command runs it; elsewhere it says where to find it.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import cudeform
from cudeform.commands import CommandError

FOLDER = Path(cudeform.__file__).resolve().parents[1] / "benchmarks"

NOT_HERE = (
    "bench: the benchmark is not part of the installed package; clone the repository of cudeform "
    "and run python -m cudeform bench in its folder"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the benchmark's own options and description."""
    command = benchmark()
    parser.description = command.__doc__
    command.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the benchmark and return its exit status."""
    return int(benchmark().run(arguments))


def benchmark() -> ModuleType:
    """Import the benchmark's command module.

    Raises:
        CommandError: the package was not imported from a checkout.
    """
    if not (FOLDER / "cudeform_bench").is_dir():
        raise CommandError(NOT_HERE)
    if str(FOLDER) not in sys.path:
        sys.path.insert(0, str(FOLDER))
    return import_module("cudeform_bench.command")
