"""Prepare a checkout for the package index: absolute links in README, URLs in pyproject.toml.

    python .github/release.py OWNER/NAME vX.Y.Z

An index shows README without the repository around it, so a relative link or picture leads nowhere
there. The addresses follow from the repository that runs the release: neither file names a host.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://|#|mailto:)([^)\s]+)\)")


def with_absolute_links(readme: str, repository: str, tag: str) -> str:
    """README with links to the files of a tag, and pictures that an index can show."""

    def absolute(link: re.Match[str]) -> str:
        mark, text, path = link.groups()
        pictures = f"https://raw.githubusercontent.com/{repository}/{tag}"
        pages = f"https://github.com/{repository}/blob/{tag}"
        return f"{mark}[{text}]({pictures if mark else pages}/{path})"

    return LINK.sub(absolute, readme)


def with_urls(pyproject: str, repository: str, tag: str) -> str:
    """pyproject.toml with ``[project.urls]``, which a package index lists beside the text."""
    home = f"https://github.com/{repository}"
    urls = {
        "Source": home,
        "Changelog": f"{home}/blob/{tag}/CHANGELOG.md",
        "Issues": f"{home}/issues",
    }
    table = "".join(f'{name} = "{url}"\n' for name, url in urls.items())
    heading = "[project.optional-dependencies]\n"
    before, found, after = pyproject.partition(heading)
    if not found:
        raise ValueError(f"pyproject.toml has no {heading.strip()}")
    return f"{before}[project.urls]\n{table}\n{heading}{after}"


def version() -> str:
    """The version that the package has."""
    text = (ROOT / "cudeform" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE)
    if found is None:
        raise ValueError("cudeform/__init__.py has no __version__")
    return found[1]


def main(repository: str, tag: str) -> None:
    """Rewrite both files; refuse a tag that is not the package's version."""
    if tag != f"v{version()}":
        sys.exit(f"the tag is {tag}, the package is version {version()}: tag it v{version()}")
    readme, pyproject = ROOT / "README.md", ROOT / "pyproject.toml"
    text = with_absolute_links(readme.read_text(encoding="utf-8"), repository, tag)
    readme.write_text(text, encoding="utf-8")
    text = with_urls(pyproject.read_text(encoding="utf-8"), repository, tag)
    tomllib.loads(text)
    pyproject.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
