"""Tables of the page on performance, from what ``python -m cudeform bench --json`` wrote."""

from __future__ import annotations

from pathlib import Path

from cudeform.commands.bench_table import Report, table

NONE = """\
No results lie in ``benchmarks/results`` of this checkout. Measure yours with::

    python -m cudeform bench --json benchmarks/results/MACHINE-DATE.json
"""


def write_tables(results: Path, output: Path) -> None:
    """Write ``performance.rst`` into ``output``: a table for each file of ``results``."""
    parts = []
    for file in sorted(results.glob("*.json")):
        try:
            report = Report.from_json(file.read_text(encoding="utf-8"))
        except (KeyError, TypeError, ValueError):
            continue  # measured by something other than the bench command
        lines = "\n".join(f"    {line}".rstrip() for line in table(report).splitlines())
        parts.append(f"``{file.name}``:\n\n.. code-block:: text\n\n{lines}\n")
    output.mkdir(exist_ok=True)
    (output / "performance.rst").write_text("\n".join(parts) or NONE, encoding="utf-8")
