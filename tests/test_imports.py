"""Imports run one way, heavy packages are imported late, and `import flamec` is quick."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

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
