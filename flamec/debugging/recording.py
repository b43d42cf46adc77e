"""Write a reproduction of a compilation that failed.

In: what was being compiled, the stage and the exception. Out: a file in
``CompileOptions.reproduction_folder``. Invariant: whatever goes wrong here is told beside the
failure, and never hides it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from flamec.debugging.reproduction import (
    CODEGEN_OPTIONS,
    COMPILE_OPTIONS,
    Reproduction,
    to_text,
)
from flamec.ir.bodies import all_nodes
from flamec.ir.graph import Graph
from flamec.ir.op import is_registered
from flamec.ir.passes.forget_derivatives import forget_derivatives
from flamec.ir.passes.manager import Pass, Repeat
from flamec.ir.passes.pipeline import pipeline
from flamec.prepared import Prepared
from flamec.runtime.private_files import private_folder, replace_file

MOST_FILES = 64


def record_failure(prepared: Prepared, stage: str, cause: Exception) -> tuple[Path | None, str]:
    """The file that was written, and a line for the error message."""
    folder = prepared.options.reproduction_folder
    if folder is None:
        return None, ""
    try:
        found = replace(
            reproduction_of(prepared), stage=stage, error=type(cause).__name__, message=str(cause)
        )
        path = save(found, folder)
    except Exception as error:
        return None, f"(no reproduction could be written: {type(error).__name__}: {error})"
    return path, f"to see it again: python {path}"


def reproduction_of(prepared: Prepared) -> Reproduction:
    """What was being compiled, without a failure; sizes are the hints of code generation."""
    options: dict[str, Any] = {n: getattr(prepared.options, n) for n in COMPILE_OPTIONS}
    sizes: Mapping[str, int] = {}
    if prepared.codegen is not None:
        options |= {n: getattr(prepared.codegen, n) for n in CODEGEN_OPTIONS}
        sizes = prepared.codegen.size_hints
    strict = prepared.options.numerics == "strict"
    passes = pipeline(strict=strict) if prepared.passes is None else prepared.passes
    graph = printable(prepared.own_graph)
    return Reproduction(
        graph,
        passes=pass_names(passes),
        options=options,
        sizes=dict(sizes),
        imports=tuple(_declarations(graph)),
    )


def _declarations(graph: Graph) -> dict[tuple[str, str], None]:
    """Where the user's kernels in a graph are declared: modules and files."""
    kernels = [node.op.kernel for node in all_nodes(graph)]
    return dict.fromkeys(kernel.declared for kernel in kernels if kernel is not None)


def printable(graph: Graph) -> Graph:
    """The graph without operations that only this process knows: derivatives written in Python."""
    if all(is_registered(node.op) for node in all_nodes(graph)):
        return graph
    return forget_derivatives(graph)


def pass_names(passes: Any) -> tuple[str, ...]:
    """The names of passes, each once, in order."""
    names: dict[str, None] = {}
    for entry in passes:
        for single in entry.passes if isinstance(entry, Repeat) else (entry,):
            assert isinstance(single, Pass)
            names[single.name] = None
    return tuple(names)


def save(reproduction: Reproduction, folder: Path) -> Path:
    """Write the file; equal failures have one file. The oldest files above ``MOST_FILES`` go."""
    text = to_text(reproduction)
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    name = re.sub(r"\W+", "_", f"{reproduction.graph.name}_{reproduction.stage}").strip("_")
    private_folder(folder)
    path = folder / f"{name}_{digest}.py"
    replace_file(path, text.encode())
    files = sorted(folder.glob("*.py"), key=lambda p: p.stat().st_mtime_ns, reverse=True)
    for old in files[MOST_FILES:]:
        old.unlink(missing_ok=True)
    return path
