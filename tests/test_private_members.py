"""What a class defines for flamec alone is used in flamec: an override of a method that has another
name by now is one that nobody calls."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import networkx as nx

ROOT = Path(__file__).parent.parent
OF_OTHERS = {  # names that programs or libraries use
    "_fields_",  # ctypes
    "_version", "_reversed_padding_repeated_twice", "_register_state_dict_hook",
    "_register_load_state_dict_pre_hook",  # PyTorch's
}  # fmt: skip


def members(owner: ast.ClassDef) -> dict[str, int]:
    """Names and lines of the methods and attributes that a class's body defines."""
    found = {}
    for statement in owner.body:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
            found[statement.name] = statement.lineno
            continue
        for target in getattr(statement, "targets", [getattr(statement, "target", None)]):
            if isinstance(target, ast.Name):
                found[target.id] = target.lineno
    return found


def is_own(node: ast.Attribute) -> bool:
    """Whether an attribute is one of ``self``, ``cls`` or ``super()``."""
    value = node.value.func if isinstance(node.value, ast.Call) else node.value
    return isinstance(value, ast.Name) and value.id in ("self", "cls", "super")


class Reads(ast.NodeVisitor):
    """Which names are read by whom, and what classes are made of."""

    def __init__(self) -> None:
        self.by: dict[str, set[str]] = defaultdict(set)  # of self, by class; "" anywhere
        self.bases = nx.DiGraph()  # from a class to those that are derived from it
        self.defined: list[tuple[str, str, str]] = []  # place, class, name
        self.file = self.owner = ""

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.bases.add_node(node.name)
        for base in node.bases:
            self.bases.add_edge(ast.unparse(base).split("[")[0].rpartition(".")[2], node.name)
        for name, line in members(node).items():
            self.defined.append((f"{self.file}:{line} {node.name}.{name}", node.name, name))
        outer, self.owner = self.owner, node.name
        self.generic_visit(node)
        self.owner = outer

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.ctx, ast.Load):
            self.by[self.owner if is_own(node) else ""].add(node.attr)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str):  # which may be a name, too
            self.by[""].add(node.value)


def unused(sources: dict[str, str]) -> list[str]:
    """Private members of classes whose name nothing reads: neither of any object, nor of ``self``
    in a class that such an object can have among its bases."""
    reads = Reads()
    for reads.file, text in sources.items():
        reads.visit(ast.parse(text))
    found = []
    for place, owner, name in reads.defined:
        if not name.startswith("_") or name.startswith("__") or name in reads.by[""] | OF_OTHERS:
            continue
        below = {owner, *nx.descendants(reads.bases, owner)}
        family = below.union(*(nx.ancestors(reads.bases, b) for b in below))
        if not any(name in reads.by[k] for k in family):
            found.append(place)
    return found


def test_private_members_of_classes_are_used() -> None:
    folders = ("flamec", "ir", "codegen", "runtime")
    files = [file for folder in folders for file in (ROOT / folder).rglob("*.py")]
    found = unused({file.relative_to(ROOT).as_posix(): file.read_text() for file in files})
    assert not found, "\n".join(found)


def test_an_override_of_a_method_that_was_renamed_is_found() -> None:
    base = "class A:\n    def _check(self): ...\n    def run(self): self._check()\n"
    old = "class B(A):\n    def _check_input(self): ...\n    _rank: int = 2\n"
    other = "class C:\n    def _check_input(self): self._check_input()\n"
    sources = {"a.py": base, "b.py": old, "c.py": other}
    assert unused(sources) == ["b.py:2 B._check_input", "b.py:3 B._rank"]
    sources["b.py"] = old.replace("_check_input", "_check")
    assert unused(sources) == ["b.py:3 B._rank"]
    mixed = "class D(M, A): ...\nclass M:\n    def _check(self): ...\n"
    assert unused({"a.py": base, "d.py": mixed}) == []
