"""The tiers of the tests, their required libraries, and the promises that they keep.

The default run deselects the marks ``slow`` and ``gpu``; ``-m`` selects them. A run of ``slow``
includes all hypothesis tests, with the long profile. The default run has them with few examples.
The ``conftest.py`` of each folder has its fixtures and imports the libraries that it needs.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Generator, Iterator
from importlib import import_module
from typing import Any

import pytest
from hypothesis import HealthCheck, is_hypothesis_test, settings
from promises import PROMISED, PROMISES, is_whole_run
from support.needs import ADAPTED, COMPILER, has

from cudeform.options import available_threads

# The same examples in every run: a test that fails in CI fails everywhere.
settings.register_profile(
    "quick",
    max_examples=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.register_profile("long", settings.get_profile("quick"), max_examples=150)
settings.load_profile("quick")

# Libraries that must be installed; CI lists those that it installs.
REQUIRED = os.environ.get("CUDEFORM_REQUIRED", "").split()
MISSING = re.compile(r"could not import '([\w.]+)'|needs ([\w.]+)$")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Use two processes for a run of all folders, if pytest-xdist is installed.

    All tests of a file run in the same process, because they share compiled code.
    """
    if hasattr(config, "workerinput"):
        return  # this process is a worker
    option = config.option
    asked = getattr(option, "numprocesses", 0) is not None
    alone = option.usepdb or option.collectonly or _asks_for("gpu", config)  # there is one GPU
    if not asked and not alone and is_whole_run(config) and available_threads() > 1:
        option.numprocesses, option.dist = 2, "loadfile"


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput["whole run"] = is_whole_run(node.config)


def pytest_configure(config: pytest.Config) -> None:
    for name in REQUIRED:
        import_module(name)
    if _asks_for("slow", config) and not config.getoption("--hypothesis-profile", None):
        settings.load_profile("long")


def pytest_report_header() -> list[str]:
    """List missing libraries on one line, instead of a skip for each affected test."""
    lines = []
    if missing := [name for name in ADAPTED if not has(name)]:
        lines.append(f"not installed, so not tested: {', '.join(missing)}")
    if COMPILER is None:
        lines.append("no C++ compiler, so the tests that run kernels on the CPU are left out")
    return lines


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    _thin_out_combinations(items)
    config.stash[PROMISED] = _tests_by_promise(items)
    if _asks_for("slow", config):
        for item in items:
            if is_hypothesis_test(getattr(item, "obj", None)):
                item.add_marker(pytest.mark.slow)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    return _fail_where_required(report)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    return _fail_where_required(report)


def _asks_for(tier: str, config: pytest.Config) -> bool:
    return tier in config.getoption("markexpr").replace(f"not {tier}", "")


def _thin_out_combinations(items: list[pytest.Item]) -> None:
    """Of a test with the mark ``each_value``, keep only some combinations in the default run.

    They contain every value of every parameter; their number is the length of the longest list of
    values. The other combinations get the mark ``slow``.
    """
    tests: dict[str, list[pytest.Function]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("each_value") and not item.get_closest_marker("gpu"):
            assert isinstance(item, pytest.Function)
            tests[item.nodeid.partition("[")[0]].append(item)
    for combinations in tests.values():
        lists: list[dict[tuple[int, ...], int]] = []  # for each decorator, the index of each value
        indices = []
        for item in combinations:
            values = list(_values(item))
            lists = lists or [{} for _ in values]
            pairs = zip(lists, values, strict=True)
            indices.append([seen.setdefault(value, len(seen)) for seen, value in pairs])
        chosen = _diagonal([len(seen) for seen in lists])
        for item, index in zip(combinations, indices, strict=True):
            if tuple(index) not in chosen:
                item.add_marker(pytest.mark.slow)


def _diagonal(sizes: list[int]) -> set[tuple[int, ...]]:
    """Combinations of indices into lists of these sizes that contain each index of each list."""
    length = max(sizes)
    steps, step = [], 1
    for size in sizes:
        fits = step * size <= length
        steps.append(step if fits else 1)
        step *= size if fits and size < length else 1
    return {
        tuple(i // step % size for step, size in zip(steps, sizes, strict=True))
        for i in range(length)
    }


def _values(item: pytest.Function) -> Iterator[tuple[int, ...]]:
    """The identities of the values that a test gets from each decorator ``parametrize``."""
    for mark in item.iter_markers("parametrize"):
        names = mark.args[0].split(",") if isinstance(mark.args[0], str) else mark.args[0]
        yield tuple(id(item.callspec.params[name.strip()]) for name in names)


def _tests_by_promise(items: list[pytest.Item]) -> dict[str, list[str]]:
    """For each promise, the tests of the default run that keep it."""
    found: dict[str, list[str]] = {promise: [] for promise in PROMISES}
    for item in items:
        for mark in item.iter_markers("promise"):
            for promise in mark.args:
                if promise not in found:
                    raise pytest.UsageError(f"{item.nodeid}: no promise is named {promise!r}")
                if not item.get_closest_marker("slow") and not item.get_closest_marker("gpu"):
                    found[promise].append(item.nodeid)
    return found


def _fail_where_required(report: Any) -> Any:
    """Turn a skip into a failure if the library that the test needs is required."""
    if REQUIRED and report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2]
        found = MISSING.search(reason)
        if found and (found[1] or found[2]).split(".")[0] in {r.split(".")[0] for r in REQUIRED}:
            report.outcome, report.longrepr = "failed", f"CUDEFORM_REQUIRED, but skipped: {reason}"
    return report
