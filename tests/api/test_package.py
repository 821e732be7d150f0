"""Rules of imports, the list of packages, and a checkout as one package."""

import ast
import subprocess
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]

# From the ground floor up. A module imports modules of its own floor and of those below.
FLOORS = (
    (
        *("checks", "geometry", "shape_rules", "settings", "arrays", "options", "partition"),
        "kernels",
        "sums_geometry",
    ),
    ("cpu", "gpu"),
    ("engine", "transposed", "sums"),
    ("spec", "family"),
    ("interop",),
    ("operators", "inspect"),
    ("derivatives",),
    ("__init__",),
    ("commands", "keras"),
    ("__main__",),
)
MOST_FILES = 15


def folder_of(package: str) -> Path:
    """Where the repository has a package: the longest entry of package-dir that fits says so."""
    for prefix, folder in sorted(SETUPTOOLS["package-dir"].items(), reverse=True):
        if package == prefix or package.startswith(f"{prefix}."):
            return ROOT / folder / package[len(prefix) :].replace(".", "/").lstrip("/")
    raise AssertionError(f"{package} is in no folder")


FOLDERS = {package: folder_of(package) for package in SETUPTOOLS["packages"]}
MODULES = {
    package if path.stem == "__init__" else f"{package}.{path.stem}": path
    for package, folder in FOLDERS.items()
    for path in folder.glob("*.py")
}


def imports_of(source: str, package: str) -> set[str]:
    """Names that a text of a package imports when it runs, inside functions too."""
    found = set()
    todo: list[ast.AST] = [ast.parse(source)]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo += node.orelse
            continue
        todo += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: 1 - node.level or None] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def module_of(name: str) -> str | None:
    """The module of the package that an imported name is, or is defined in."""
    return next((part for part in (name, name.rpartition(".")[0]) if part in MODULES), None)


IMPORTED = {
    module: imports_of(
        path.read_text(encoding="utf-8"),
        module if path.stem == "__init__" else module.rpartition(".")[0],
    )
    for module, path in MODULES.items()
}
GRAPH = {
    module: {other for name in names if (other := module_of(name)) not in (None, module)}
    for module, names in IMPORTED.items()
}


def floor_of(module: str) -> int:
    part = (module.split(".") + ["__init__"])[1]
    return next(number for number, floor in enumerate(FLOORS) if part in floor)


def inside(module: str, *parts: str) -> bool:
    return any(f"{module}.".startswith(f"cudeform.{part}.") for part in parts)


def wrong_imports(graph: dict[str, set[str]]) -> list[str]:
    """Forbidden imports: upwards, between engines, or from an adapter past the engine."""
    wrong = []
    for module, others in graph.items():
        for other in others:
            upwards = floor_of(other) > floor_of(module)
            across = inside(module, "cpu") and inside(other, "gpu")
            across |= inside(module, "gpu") and inside(other, "cpu")
            past = inside(module, "interop") and inside(other, "cpu", "gpu")
            if upwards or across or past:
                wrong.append(f"{module} imports {other}")
    return wrong


def test_no_module_breaks_the_rules_of_imports():
    assert not wrong_imports(GRAPH)


def test_there_is_no_circle():
    TopologicalSorter(GRAPH).prepare()


def test_one_folder_of_the_engines_touches_cupy():
    users = {m for m, names in IMPORTED.items() if any(n.split(".")[0] == "cupy" for n in names)}
    assert any(inside(user, "gpu.cuda") for user in users)
    for user in users:
        assert inside(user, "gpu.cuda", "interop", "commands"), user


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("cudeform.cpu.forward", "cudeform.engine"),
        ("cudeform.geometry", "cudeform"),
        ("cudeform.cpu.forward", "cudeform.gpu.forward"),
        ("cudeform.gpu", "cudeform.cpu"),
        ("cudeform.interop.numpy", "cudeform.cpu"),
        ("cudeform.interop.torch.impl", "cudeform.gpu.forward"),
        ("cudeform.interop.adapter", "cudeform.operators.deform_conv"),
    ],
)
def test_a_wrong_import_is_seen(importer: str, imported: str):
    assert wrong_imports({importer: {imported}}) == [f"{importer} imports {imported}"]


def test_a_circle_is_seen():
    with pytest.raises(CycleError):
        TopologicalSorter({"a": {"b"}, "b": {"c"}, "c": {"a"}}).prepare()


def test_imports_are_read_as_python_reads_them():
    source = """
from . import a
from ..b import c
from cudeform.d import e
if TYPE_CHECKING:
    import f
def later():
    import g.h
"""
    found = imports_of(source, "cudeform.x.y")
    assert found == {"cudeform.x.y.a", "cudeform.x.b.c", "cudeform.d.e", "g.h"}
    assert "cudeform.cpu" in GRAPH["cudeform.engine"]
    assert "cudeform.interop.adapter" in GRAPH["cudeform.operators.call"]


@pytest.mark.promise("nothing to build")
def test_every_folder_with_modules_is_a_listed_package():
    tops = {ROOT / folder for folder in SETUPTOOLS["package-dir"].values()}
    assert {path.parent for top in tops for path in top.rglob("*.py")} == set(FOLDERS.values())


def test_no_folder_is_too_long_to_read():
    tops = ("benchmarks", "cudeform", "docs", "examples", "interop", "kernels")
    for folder in {path.parent for top in tops for path in (ROOT / top).rglob("*.*")}:
        name = str(folder.relative_to(ROOT))
        files = [path for path in folder.iterdir() if path.suffix != ".pyc" and path.is_file()]
        made = any(part in name for part in ("_generated", "_build"))
        assert len(files) <= MOST_FILES or made, name


@pytest.mark.skipif(not (ROOT / "cudeform" / "interop").exists(), reason="needs a checkout")
def test_a_checkout_is_one_package_with_nothing_else_in_it():
    code = "import cudeform.interop.numpy, cudeform.kernels as k; print(k.__file__)"
    done = in_checkout(code)
    assert done.stdout.strip() == str(ROOT / "cudeform" / "kernels" / "__init__.py")
    for other in ("tests", "docs", "benchmarks", "cudeform"):
        assert "ModuleNotFoundError" in in_checkout(f"import cudeform.{other}").stderr


def in_checkout(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path += {sys.path!r}; {code}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
