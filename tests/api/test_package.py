"""The wheel, the list of packages, and who imports whom."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]

# From the ground floor up; what stands on one line may import the lines above it and itself.
FLOORS = (
    (
        "cudeform.checks",
        "cudeform.geometry",
        "cudeform.arrays",
        "cudeform.options",
        "cudeform.partition",
    ),
    ("cudeform.cpu", "cudeform.gpu"),
    ("cudeform.engine",),
    ("cudeform.interop",),
    ("cudeform.operators", "cudeform.inspect"),
    ("cudeform",),
    ("cudeform.commands",),
    ("cudeform.__main__",),
)


def folder_of(package: str) -> Path:
    for prefix, folder in SETUPTOOLS["package-dir"].items():
        if prefix != "cudeform" and package.startswith(prefix):
            return ROOT / folder / package.removeprefix(prefix).lstrip(".").replace(".", "/")
    return ROOT / package.replace(".", "/")


MODULES = {
    package if path.stem == "__init__" else f"{package}.{path.stem}": path
    for package in SETUPTOOLS["packages"]
    for path in folder_of(package).glob("*.py")
}


def floor_of(module: str) -> int:
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        for floor, names in enumerate(FLOORS):
            if ".".join(parts[:length]) in names and (length > 1 or len(parts) == 1):
                return floor
    raise AssertionError(f"{module} stands on no floor")


def imports_of(module: str) -> set[str]:
    """Modules of cudeform that a module imports at run time, anywhere in its text."""
    found = set()
    package = module if MODULES[module].stem == "__init__" else module.rpartition(".")[0]
    for node in _run_time_nodes(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([package, node.module or ""]) if node.level else node.module or ""
            base = base.rstrip(".")
            whole = {f"{base}.{name.name}" for name in node.names} & MODULES.keys()
            found |= whole or {base}
    return {name for name in found if name in MODULES}


def _run_time_nodes(tree: ast.AST) -> list[ast.AST]:
    nodes = [tree]
    for child in ast.iter_child_nodes(tree):
        if not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)):
            nodes += _run_time_nodes(child)
    return nodes


@pytest.mark.promise("nothing to build")
def test_every_folder_with_modules_is_a_listed_package():
    folders = {
        path.parent
        for top in ("cudeform", "kernels", "interop")
        for path in (ROOT / top).rglob("*.py")
    }
    assert folders == {folder_of(package) for package in SETUPTOOLS["packages"]}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_nobody_imports_upwards(module):
    for other in imports_of(module):
        assert floor_of(other) <= floor_of(module), f"{module} imports {other}"


def test_the_engines_do_not_know_each_other():
    for module in MODULES:
        for mine, theirs in (("cudeform.cpu", "cudeform.gpu"), ("cudeform.gpu", "cudeform.cpu")):
            if module.startswith(mine):
                assert not any(other.startswith(theirs) for other in imports_of(module)), module


def test_a_door_imports_the_engine_and_nothing_below_it():
    allowed = ("cudeform.engine", *FLOORS[0], "cudeform.interop")
    for module in MODULES:
        if module.startswith("cudeform.interop"):
            for other in imports_of(module):
                assert other.startswith(allowed), f"{module} imports {other}"


def test_one_file_touches_cupy():
    users = {
        module
        for module, path in MODULES.items()
        if any(
            isinstance(node, ast.Import) and any(n.name.split(".")[0] == "cupy" for n in node.names)
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        )
    }
    engine = {
        name for name in users if not name.startswith(("cudeform.commands", "cudeform.interop"))
    }
    assert engine == {"cudeform.gpu.cuda.device"}


def test_the_check_of_imports_can_fail():
    assert (
        floor_of("cudeform.operators.deform_conv")
        > floor_of("cudeform.engine")
        > floor_of("cudeform.cpu.forward")
    )
    assert "cudeform.cpu" in imports_of("cudeform.engine")
    assert "cudeform.interop.adapter" in imports_of("cudeform.operators.deform_conv")


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
