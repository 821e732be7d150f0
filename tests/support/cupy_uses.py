"""Finds the names of CuPy that cudeform's source uses, and the numbers of their arguments.

Names are followed from ``import cupy`` and from parameters called ``cupy`` through assignments,
attributes and calls. A use is written as a path: ``cupy.cuda.Device().id`` is the attribute ``id``
of what ``cupy.cuda.Device(...)`` returns.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("cudeform", "interop")

# Parameters that hold a part of CuPy, by name, unless they are annotated as something else.
PARAMETERS = {
    "cupy": "cupy",
    "kernel": "cupy.RawKernel()",
    "allocation": "cupy.cuda.alloc()",
}
PARAMETERS_OF_THE_ADAPTER = {"array": "cupy.ndarray()", "like": "cupy.ndarray()"}

# Functions whose results are no objects of CuPy.
LEAVES_CUPY = ("cupy.asnumpy",)


@dataclass(frozen=True)
class Use:
    """A use of CuPy.

    Attributes:
        path: such as ``cupy.cuda.alloc``.
        positional: number of positional arguments of a call; None if it is not a call, or if
            arguments are unpacked into it.
        keywords: names of keyword arguments.
        location: file and line.
    """

    path: str
    positional: int | None
    keywords: tuple[str, ...]
    location: str


def uses_of_cudeform() -> list[Use]:
    """All uses in the package, its adapters included."""
    texts = {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
    }
    return uses_in({location: text for location, text in texts.items() if "cupy" in text})


def uses_in(texts: Mapping[str, str]) -> list[Use]:
    """All uses in some modules, by file."""
    trees = {location: ast.parse(text) for location, text in texts.items()}
    returned: dict[str, str] = {}
    for location, tree in trees.items():
        # The first pass finds what functions return; the second needs it for their calls.
        _Finder(location, returned).visit(tree)
    found = []
    for location, tree in trees.items():
        finder = _Finder(location, returned)
        finder.visit(tree)
        found += finder.uses
    return found


class _Finder(ast.NodeVisitor):
    """Follows CuPy through one module.

    ``paths`` are the paths of names in the current scope, ``attributes`` those of ``self.x``.
    """

    def __init__(self, location: str, returned: dict[str, str]) -> None:
        self.location, self.returned = location, returned
        self.uses: list[Use] = []
        self.paths: dict[str, str] = {}
        self.attributes: dict[str, str] = {}
        self.function: str | None = None
        self.parameters = PARAMETERS
        if location.endswith("interop/cupy.py"):
            self.parameters = PARAMETERS | PARAMETERS_OF_THE_ADAPTER

    def path_of(self, node: ast.expr) -> str | None:
        if isinstance(node, ast.Name):
            return self.paths.get(node.id)
        if isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Name) and node.value.id == "self":
                return self.attributes.get(node.attr)
            base = self.path_of(node.value)
            return None if base is None else f"{base}.{node.attr}"
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id in self.returned:
                return self.returned[node.func.id]
            called = self.path_of(node.func)
            return None if called is None or called in LEAVES_CUPY else f"{called}()"
        return None

    def assign(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for one, part in zip(target.elts, value.elts, strict=True):
                self.assign(one, part)
            return
        path = self.path_of(value)
        if isinstance(target, ast.Name):
            self.paths.pop(target.id, None)
            if path is not None:
                self.paths[target.id] = path
        elif (
            path is not None
            and isinstance(target, ast.Attribute)
            and isinstance(target.value, ast.Name)
            and target.value.id == "self"
        ):
            self.attributes[target.attr] = path

    def add(self, node: ast.expr, path: str, call: ast.Call | None = None) -> None:
        positional, keywords = None, ()
        if call is not None and not any(isinstance(arg, ast.Starred) for arg in call.args):
            positional = len(call.args)
            keywords = tuple(word.arg for word in call.keywords if word.arg is not None)
        self.uses.append(Use(path, positional, keywords, f"{self.location}:{node.lineno}"))

    # ---- the nodes that matter -------------------------------------------------------------------

    def visit_Import(self, node: ast.Import) -> None:
        for name in node.names:
            if name.name == "cupy":
                self.paths[name.asname or "cupy"] = "cupy"

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        for target in node.targets:
            self.visit(target)
            self.assign(target, node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)
            self.assign(node.target, node.value)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        path = self.path_of(node)
        if path is not None and self.path_of(node.value) is not None:
            self.add(node, path)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        path = self.path_of(node.func)
        if path is not None:
            self.add(node, path, node)
        self.generic_visit(node)

    def visit_With(self, node: ast.With) -> None:
        for item in node.items:
            path = self.path_of(item.context_expr)
            if path is not None:
                self.add(item.context_expr, f"{path}.__enter__")
        self.generic_visit(node)

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is not None:
            self.visit(node.value)
            path = self.path_of(node.value)
            if path is not None and self.function is not None:
                self.returned[self.function] = path

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        outer, self.attributes = self.attributes, {}
        self.generic_visit(node)
        self.attributes = outer

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        outer, self.paths = self.paths, dict(self.paths)
        function, self.function = self.function, node.name
        for parameter in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
            self.paths.pop(parameter.arg, None)
            untyped = parameter.annotation is None or ast.unparse(parameter.annotation) == "Any"
            if untyped and parameter.arg in self.parameters:
                self.paths[parameter.arg] = self.parameters[parameter.arg]
        for statement in node.body:
            self.visit(statement)
        self.paths, self.function = outer, function
