"""The command line: ``python -m cudeform COMMAND``.

Each command is a module of ``cudeform.commands`` with ``add_arguments(parser)`` and
``run(arguments)``. Only the module of the given command is imported.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

import cudeform
from cudeform.commands import CommandError

COMMANDS = {
    "info": "what this machine offers, and what to change",
    "check": "compare this machine's GPU with the CPU engine",
    "demo": "see deformable convolution work on a picture",
    "bench": "compare its speed with torchvision and onnxruntime",
}

CANNOT_WRITE = 1  # the output, as on a full disk
CANNOT_RUN = 2  # argparse exits with the same status on wrong arguments
INTERRUPTED = 130  # the status that shells report for a process killed by SIGINT
PIPE_CLOSED = 141  # the same for SIGPIPE: the reader of the output has exited, as after "| head"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words after ``python -m cudeform``; None reads them from ``sys.argv``.

    Returns:
        The exit status.
    """
    try:
        try:
            return _run(list(sys.argv[1:] if argv is None else argv))
        finally:
            sys.stdout.flush()  # raises errors of writing here rather than at exit
    except CommandError as error:
        print(error, file=sys.stderr)
        return CANNOT_RUN
    except BrokenPipeError:
        return PIPE_CLOSED
    except OSError as error:
        if error.filename is not None:  # of a file, not of the output
            raise
        print(f"cannot write the output: {error.strerror}", file=sys.stderr)
        return CANNOT_WRITE
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return INTERRUPTED


def _run(words: list[str]) -> int:
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
        return CANNOT_RUN
    return int(arguments.run(arguments))


def leave(status: int) -> NoReturn:
    """Exit the process with a status."""
    if status == INTERRUPTED:
        # The exit waits for threads that still compute. A second Ctrl-C ends the process at once.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if status in (PIPE_CLOSED, CANNOT_WRITE):  # what cannot be written is flushed again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


if __name__ == "__main__":
    leave(main())
