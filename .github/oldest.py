"""The requirements of pyproject.toml with each lower bound as the version: ``numpy==2.1.*``."""

import tomllib
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text())

for requirement in PROJECT["project"]["dependencies"]:
    name, bound, version = requirement.partition(">=")
    if bound:
        print(f"{name}=={version}.*")
