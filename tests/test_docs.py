"""Examples in docstrings and in the README run and give what they say."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
MODULES = ("", ".geometry", ".ops", ".options", ".partition")


@pytest.mark.parametrize("module", MODULES)
def test_docstrings(module):
    outcome = doctest.testmod(importlib.import_module(f"cudeform{module}"))
    assert outcome.attempted
    assert not outcome.failed


def test_the_code_of_the_readme(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(code, {})
    promised = re.findall(r"print\(.*?\)  # (.*)", code)
    assert capsys.readouterr().out.splitlines() == promised


def test_files_that_the_readme_names_exist():
    root = Path(__file__).parent.parent
    for name in re.findall(r"\]\(([^)]+)\)|`([\w/]+\.md)`", README):
        assert (root / next(filter(None, name))).exists(), name
