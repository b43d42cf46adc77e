"""What a class defines for flamec alone is used in flamec: an override of a method that has another
name by now is one that nobody calls."""

from __future__ import annotations

import ast
from pathlib import Path

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


def unused(sources: dict[str, str]) -> list[str]:
    """Private members of classes whose name nothing reads; strings may be such names, too."""
    defined: dict[str, str] = {}
    used = set(OF_OTHERS)
    for file, text in sources.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                for name, line in members(node).items():
                    defined[f"{file}:{line} {node.name}.{name}"] = name
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                used.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                used.add(node.value)
    return [
        place
        for place, name in defined.items()
        if name.startswith("_") and not name.startswith("__") and name not in used
    ]


def test_private_members_of_classes_are_used() -> None:
    folders = ("flamec", "ir", "codegen", "runtime")
    files = [file for folder in folders for file in (ROOT / folder).rglob("*.py")]
    found = unused({file.relative_to(ROOT).as_posix(): file.read_text() for file in files})
    assert not found, "\n".join(found)


def test_an_override_of_a_method_that_was_renamed_is_found() -> None:
    base = "class A:\n    def _check(self): ...\n    def run(self): self._check()\n"
    old = "class B(A):\n    def _check_input(self): ...\n    _rank: int = 2\n"
    assert unused({"a.py": base, "b.py": old}) == ["b.py:2 B._check_input", "b.py:3 B._rank"]
    renamed = old.replace("_check_input", "_check")
    assert unused({"a.py": base, "b.py": renamed}) == ["b.py:3 B._rank"]
