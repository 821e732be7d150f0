"""The command line: ``python -m cudeform COMMAND``.

Each command is a module of ``cudeform.commands`` with ``add_arguments(parser)`` and
``run(arguments)``; only the module of the command that was asked for is imported.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

import cudeform

COMMANDS = {
    "info": "what this machine offers, and what to change",
    "check": "compare this machine's GPU with the CPU engine",
    "demo": "see deformable convolution work on a picture",
    "bench": "time it beside torchvision and onnxruntime",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words after ``python -m cudeform``; those of this process where None.

    Returns:
        The exit status.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="python -m cudeform", description="Deformable convolution for any array."
    )
    parser.add_argument("--version", action="version", version=f"cudeform {cudeform.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command", title="commands")
    for name, summary in COMMANDS.items():
        command = commands.add_parser(
            name, help=summary, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if words[:1] == [name]:
            module = import_module(f"cudeform.commands.{name}")
            command.description = module.__doc__
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    arguments = parser.parse_args(words)
    if arguments.command is None:
        parser.print_help(sys.stderr)
        return 2
    return int(arguments.run(arguments))


if __name__ == "__main__":
    sys.exit(main())
