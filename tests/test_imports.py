"""Imports run one way, heavy packages are imported late, and `import flamec` is quick."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import networkx as nx
import pytest

from flamec.errors import is_framework_file

ROOT = Path(__file__).parent.parent
FOLDERS = ("flamec", "ir", "codegen", "runtime")
HEAVY = ("triton", "cuda", "networkx", "jinja2", "scipy", "torch", "typer", "rich", "sklearn")

# What each folder may import of flamec, by prefix of the module's name.
ALLOWED = {
    "ir": ("flamec.ir",),
    "codegen": ("flamec.ir", "flamec.codegen"),
    "runtime": ("flamec.ir.plan", "flamec.ir.types", "flamec.ir.shape", "flamec.runtime"),
}
PACKAGES = {
    "ir": {"numpy", "ml_dtypes", "networkx"},
    "codegen": {"numpy", "networkx", "jinja2"},
    "runtime": {"numpy", "triton", "cuda"},
}
OPTIONAL = ("triton", "cuda", "torch", "sklearn")  # imported inside the functions that need them
EXTENDS = {"flamec/sklearn.py": "sklearn"}  # files that are about an optional package
LATE_CIRCLES = [  # where one of them imports another only in a function that needs it
    {"flamec.prepared", "flamec.debugging.recording"},  # what failed is written down
    {"flamec.gpu", "flamec.cuda_backend"},  # loaded with the first program for a GPU
    {"flamec.fusing", "flamec.fused_call"},  # which is loaded with the first program
    {"flamec.compiler", "flamec.nn.compiled", "flamec.nn.module"},  # compile(module) gives a module
    {"flamec.amp", "flamec.amp.cuda", "flamec.amp.grad_scaler", "flamec.cuda"},
    {"flamec.debugging.replay", "flamec.debugging.bisection"},  # which runs programs again
]
ONE_FILE = {  # packages that one file alone may import
    "runtime/cpu/derive_polynomials.py": {"mpmath"},  # run by hand, never imported
    "runtime/cuda/driver.py": {"cuda"},
    "runtime/cuda/triton_compiler.py": {"triton"},
}


def source_files(folder: str) -> Iterator[Path]:
    yield from (ROOT / folder).rglob("*.py")


def imported_modules(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every module that a file imports anywhere, with the line; ``from a import b`` is a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno


def module_files() -> dict[str, Path]:
    """Every module of the package with its file."""
    found = {}
    for folder in FOLDERS:
        for file in source_files(folder):
            parts = file.relative_to(ROOT).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            found[".".join(parts if folder == "flamec" else ("flamec", *parts))] = file
    return found


def import_graph(late: bool) -> nx.DiGraph:
    """Which module imports which when it runs; ``late``: also inside of functions, later.

    What is imported for type checks alone does not count. A package runs before what is in it.
    """
    files = module_files()
    graph = nx.DiGraph()
    for name, file in files.items():
        tree = WhatRuns(late).visit(ast.parse(file.read_text()))
        for module, _ in imported_modules(tree):
            target = module if module in files else module.rpartition(".")[0]
            if late:
                graph.add_edge(name, target)
                continue
            while target in files and not is_below(name, target):
                graph.add_edge(name, target)
                target = target.rpartition(".")[0]
    return graph


class WhatRuns(ast.NodeTransformer):
    """Drops what does not run when a module is imported; ``late``: or when it is used."""

    def __init__(self, late: bool) -> None:
        self.late = late

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST | None:
        return self.generic_visit(node) if self.late else None

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        node = self.generic_visit(node)
        return node.orelse if "TYPE_CHECKING" in ast.unparse(node.test) else node


def circles(graph: nx.DiGraph) -> list[set[str]]:
    return [set(c) for c in nx.strongly_connected_components(graph) if len(c) > 1]


def is_below(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(prefix + ".")


@pytest.mark.parametrize("folder", sorted(ALLOWED))
def test_imports_run_one_way(folder: str) -> None:
    wrong = []
    for file in source_files(folder):
        packages = PACKAGES[folder] | ONE_FILE.get(file.relative_to(ROOT).as_posix(), set())
        for module, line in imported_modules(ast.parse(file.read_text())):
            place = f"{file.relative_to(ROOT)}:{line} imports {module}"
            top = module.split(".")[0]
            if top == "flamec":
                if not any(is_below(module, allowed) for allowed in ALLOWED[folder]):
                    wrong.append(place)
            elif top not in sys.stdlib_module_names and top not in packages:
                wrong.append(place)
    assert not wrong, "\n".join(wrong)


def test_no_imports_go_round_in_a_circle() -> None:
    found = circles(import_graph(late=False))
    assert not found, found


def test_late_imports_go_round_in_a_circle_only_where_that_is_known() -> None:
    found = circles(import_graph(late=True))
    assert sorted(map(sorted, found)) == sorted(map(sorted, LATE_CIRCLES))


def test_optional_packages_are_not_imported_at_the_top_of_a_file() -> None:
    wrong = []
    for folder in FOLDERS:
        for file in source_files(folder):
            statements = ast.parse(file.read_text()).body
            top = [s for s in statements if isinstance(s, (ast.Import, ast.ImportFrom))]
            for module, line in imported_modules(ast.Module(top, [])):
                package = module.split(".")[0]
                if package in OPTIONAL and EXTENDS.get(str(file.relative_to(ROOT))) != package:
                    wrong.append(f"{file.relative_to(ROOT)}:{line} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_only_the_command_line_and_the_progress_line_import_typer_and_rich() -> None:
    wrong = []
    for folder in FOLDERS:
        for file in source_files(folder):
            if file.is_relative_to(ROOT / "flamec" / "cli") or file == ROOT / "flamec/progress.py":
                continue
            for module, line in imported_modules(ast.parse(file.read_text())):
                if module.split(".")[0] in ("typer", "rich", "click"):
                    wrong.append(f"{file.relative_to(ROOT)}:{line}")
    assert not wrong, "\n".join(wrong)


def test_only_config_reads_the_environment() -> None:
    """Options are arguments: the commands may set variables for the processes they start."""
    wrong = []
    for folder in FOLDERS:
        for file in source_files(folder):
            name = str(file.relative_to(ROOT))
            if name == "flamec/config.py" or name.startswith("flamec/cli/"):
                continue
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv"):
                    wrong.append(f"{name}:{node.lineno}")
    assert not wrong, "\n".join(wrong)


def test_importing_flamec_loads_nothing_heavy() -> None:
    program = (
        "import sys, flamec, flamec.nn, flamec.optim\n"
        f"print(*[m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


def test_importing_flamec_loads_few_files() -> None:
    """The promise is 0.3 s (``benchmarks/import_time.py``), of which NumPy needs a third."""
    program = (
        "import numpy, sys\nbefore = set(sys.modules)\nimport flamec\n"
        "print(*set(sys.modules) - before)"
    )
    loaded = subprocess.check_output([sys.executable, "-c", program], text=True).split()
    packages = {name.split(".")[0] for name in loaded} - sys.stdlib_module_names
    assert packages <= {"flamec", "ml_dtypes", "numpy"}
    assert len(loaded) < 220, sorted(loaded)


def test_all_code_of_the_package_is_known_as_its_own() -> None:
    """Wherever its parts lie: what is not is traced and guarded as the user's."""
    for name in (
        "flamec.tensor",
        "flamec.ir.graph",
        "flamec.codegen.schedule",
        "flamec.runtime.cuda",
    ):
        module = importlib.import_module(name)
        assert module.__file__ is not None and is_framework_file(module.__file__), name
    assert not is_framework_file(__file__)
