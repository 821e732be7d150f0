"""The tree in the documentation is the tree on disk; workflows call existing commands."""

import os
import re
import subprocess
import sys
import tomllib
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
from support.needs import ADAPTED

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
README = (ROOT / "README.md").read_text(encoding="utf-8")
WORKFLOWS = sorted((ROOT / ".github").glob("**/*.yml"))

needs_git = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a git checkout")
needs_workflows = pytest.mark.skipif(not WORKFLOWS, reason="an sdist has no workflows")


def tracked() -> list[Path]:
    """Files that git tracks or would track."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    paths = [ROOT / line for line in done.stdout.splitlines()]
    return [path for path in paths if path.is_file()]


def folders_on_disk() -> set[str]:
    files = [path.relative_to(ROOT) for path in tracked()]
    return {str(folder) for file in files for folder in file.parents} - {"."}


def folders_of(page: str) -> set[str]:
    """Folders of the tree in the text of a page: two more spaces lead one folder deeper."""
    found: set[str] = set()
    above: list[str] = []
    for spaces, name in re.findall(r"^   ( *)([\w.]+)/(?:  .*)?$", page, re.MULTILINE):
        above = [*above[: len(spaces) // 2], name]
        found.add("/".join(above))
    return found


@needs_git
def test_the_tree_of_the_documentation_is_the_tree_on_disk() -> None:
    page = (ROOT / "docs" / "architecture.rst").read_text(encoding="utf-8")
    assert folders_of(page.partition("The tree\n")[2]) == folders_on_disk()


def test_a_wrong_tree_is_seen() -> None:
    assert folders_of("   a/    words\n     b/\n     c/  words\n   d/\n") == {
        "a",
        "a/b",
        "a/c",
        "d",
    }


@pytest.mark.promise("honest")
def test_files_that_the_readme_names_exist() -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", README)
    commands = re.findall(r"`(?:pytest|python) ([\w/.]+/[\w/.]*)`", README)
    pages = re.findall(r"`([\w/]+\.(?:md|rst|cff))`", README)
    assert len(commands) > 3
    for name in [*links, *commands, *pages]:
        assert "://" in name or (ROOT / name).exists(), name


@pytest.mark.promise("honest")
def test_the_architectures_that_the_readme_names_are_compiled_for() -> None:
    nvrtc = pytest.importorskip("support.nvrtc")
    found = re.search(r"compile for (\w+) architectures \(sm_([\d,\s]+)\)", README)
    assert found is not None
    named = [int(arch) for arch in found[2].split(",")]
    compiled = sorted((*nvrtc.ARCHS, *nvrtc.RELATED_ARCHS))
    assert named == [arch for arch in compiled if arch >= 75]  # NVRTC 13 supports none below
    assert ["six", "seven", "eight", "nine", "ten"].index(found[1]) == len(named) - 6


@needs_workflows
@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_and_forms_are_yaml_and_call_make(file: Path) -> None:
    yaml = pytest.importorskip("yaml")
    text = file.read_text(encoding="utf-8")
    assert isinstance(yaml.safe_load(text), dict)
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in re.findall(r"\bmake ([\w -]+)", text):
        assert set(line.split()) <= targets, line


@needs_workflows
def test_ci_runs_every_python_that_the_package_names() -> None:
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    named = re.findall(r":: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    listed = re.search(r"python: \[(.*)\]", text)
    assert listed is not None
    assert re.findall(r"3\.\d+", listed[1]) == named
    assert PROJECT["requires-python"] == f">={named[0]}"


@needs_workflows
def test_the_oldest_dependencies_are_lower_bounds(capsys: pytest.CaptureFixture[str]) -> None:
    script("oldest")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(PROJECT["dependencies"])
    assert all(re.fullmatch(r"[a-z]+==[\d.]+\.\*", line) for line in lines)


@needs_workflows
def test_a_release_has_no_relative_link() -> None:
    release = script("release")
    text = release.with_absolute_links(README, "owner/name", "v1.2.3")
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert links
    assert all(link.startswith("https://") for link in links)
    assert "(https://raw.githubusercontent.com/owner/name/v1.2.3/docs/pictures/demo.png)" in text
    assert release.with_absolute_links(text, "owner/name", "v1.2.3") == text
    other = release.with_absolute_links("[a](b.md) [c](#d) ![e](f.png)", "o/n", "v1")
    raw = "https://raw.githubusercontent.com/o/n/v1"
    assert other == f"[a](https://github.com/o/n/blob/v1/b.md) [c](#d) ![e]({raw}/f.png)"


@needs_workflows
def test_a_release_has_urls() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(script("release").with_urls(text, "owner/name", "v1.2.3"))["project"]
    assert project["urls"]["Source"] == "https://github.com/owner/name"
    assert {name: part for name, part in project.items() if name != "urls"} == PROJECT


@needs_workflows
def test_a_tag_that_is_not_the_version_is_refused() -> None:
    with pytest.raises(SystemExit, match=r"the tag is v0\.0\.0"):
        script("release").main("owner/name", "v0.0.0")


def test_the_citation_has_the_version() -> None:
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(.*)"', (ROOT / "cudeform/__init__.py").read_text(), re.M)
    assert found is not None
    assert f"\nversion: {found[1]}\n" in text


def script(name: str) -> ModuleType:
    """A script of ``.github``, imported."""
    spec = spec_from_file_location(name, ROOT / ".github" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


NAMED = re.compile(r"(?<![\w./-])((?:[a-z_]+/)+[a-z_0-9]+\.(?:py|cuh?|h|rst|md|json))\b")
ROOTS = (ROOT, ROOT / "cudeform", ROOT / "kernels", ROOT / "tests")


def files_named_in(text: str) -> set[str]:
    """Files of the repository that a text refers to by a path: its first folder is one of ours."""
    names = NAMED.findall(text)
    return {name for name in names if any((root / name.split("/")[0]).is_dir() for root in ROOTS)}


@needs_git
def test_files_that_comments_and_pages_name_exist() -> None:
    for file in tracked():
        if file.suffix in {".py", ".cu", ".cuh", ".h", ".rst", ".md"} and file != Path(__file__):
            for name in files_named_in(file.read_text(encoding="utf-8")):
                folders = (*ROOTS, file.parent)
                assert any((folder / name).exists() for folder in folders), f"{file}: {name}"


def test_a_file_that_is_named_is_found() -> None:
    assert files_named_in(
        "see ``gpu/call.py``, (kernels/a/b.cuh), torch/x.py and http://docs/y.md"
    ) == {
        "gpu/call.py",
        "kernels/a/b.cuh",
    }


# Libraries of the extra "test" and of CI, whose absence makes tests skip.
OPTIONAL = (
    *ADAPTED,
    *("matplotlib", "nvidia", "onnx", "onnxruntime", "onnxscript", "scipy", "sphinx", "tqdm"),
    *("transformers", "yaml"),
)


@pytest.mark.slow
def test_all_tests_are_collected_without_optional_libraries() -> None:
    code = (
        f"import sys, pytest; sys.modules.update(dict.fromkeys({OPTIONAL!r})); "
        "sys.exit(pytest.main(['--collect-only', '-q', '-p', 'no:cacheprovider']))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "CUDEFORM_REQUIRED"}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # plugins import what is hidden here
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:]
