"""A reproduction: one Python file from which a failure of the compiler can be shown again.

In: a graph, options, the names of the passes, inputs. Out: text that Python can run, and back.
The file is data: literals and a call. Reading it executes nothing of it, but imports the
modules that it names, which declare the user's own kernels.
"""

from __future__ import annotations

import ast
import base64
import importlib
import importlib.util
import pprint
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from flamec.ir.bodies import symbols_in
from flamec.ir.graph import Graph
from flamec.ir.parser import ParseError, parse_graph
from flamec.ir.printer import print_graph
from flamec.ir.shape import evaluate_shape
from flamec.ir.types import TensorType
from flamec.saving.errors import FileFormatError

FORMAT = 1
MOST_BYTES = 4 << 20  # of inputs that are written; larger ones become random numbers
DEFAULT_SIZE = 8  # of a symbol of which nothing is known

# What decides about the code that is made; some of it stands in both records of options.
COMPILE_OPTIONS = (
    "backend",
    "c_compiler",
    "threads",
    "verify",
    "deterministic",
    "numerics",
    "memory_budget",
)
CODEGEN_OPTIONS = (
    "fuse",
    "size_hints",
    "size_bounds",
    "narrow",
    "deterministic",
    "strict",
    "target",
    "float32_products",
    "float32_convolutions",
    "memory_budget",
)

_FILE = '''"""{title}

Run this file, or `flamec repro FILE`, to see it again; `flamec minify FILE` makes it smaller.
"""

REPRODUCTION = {facts}

GRAPH = {graph}

if __name__ == "__main__":
    import sys

    from flamec.debugging.replay import main

    sys.exit(main(__file__))
'''


@dataclass(frozen=True, eq=False)
class Reproduction:
    """What is needed to see a failure again.

    ``stage``, ``error``, ``message``: what failed, the exception's type and text; ``error`` is
    ``""`` where nothing is raised and the result after ``stage`` is wrong. ``passes``: the names
    of the passes that are run. ``options``: fields of ``CompileOptions`` and ``CodegenOptions``
    that decide what code is made. ``sizes``: of the symbols. ``values``: inputs by position; the
    others are random numbers from ``seed``. ``imports``: modules, and their files, that declare the
    user's kernels.
    """

    graph: Graph
    stage: str = ""
    error: str = ""
    message: str = ""
    passes: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    values: Mapping[int, np.ndarray] = field(default_factory=dict)
    seed: int = 0
    imports: tuple[tuple[str, str], ...] = ()

    @property
    def symbols(self) -> tuple[str, ...]:
        """The names of the graph's symbolic sizes."""
        return tuple(symbols_in(self.graph))

    @property
    def bindings(self) -> dict[str, int]:
        """A size for each symbol."""
        return {name: self.sizes.get(name, DEFAULT_SIZE) for name in self.symbols}

    @property
    def failure(self) -> str:
        """What failed, in a line."""
        if not self.error:
            return f"the result is wrong after {self.stage}" if self.stage else "nothing"
        return f"{self.stage}: {self.error}: {self.message}"

    def inputs(self) -> list[np.ndarray]:
        """An array for each input of the graph, in memory of its own."""
        found = []
        for position, value in enumerate(self.graph.inputs):
            if position in self.values:
                found.append(np.array(self.values[position]))
            else:
                type = value.type
                shape = evaluate_shape(type.shape, self.bindings)
                found.append(random_array(type.with_shape(shape), (self.seed, position)))
        return found


def random_array(type: TensorType, seed: tuple[int, ...]) -> np.ndarray:
    """Normal floats; integers 0 and 1, which are indices of every dimension but one of size 1."""
    generator = np.random.default_rng(seed)
    shape: Any = type.shape
    if type.dtype.is_floating_point:
        return np.asarray(generator.standard_normal(shape)).astype(type.dtype.numpy)
    return np.asarray(generator.integers(0, 2, shape)).astype(type.dtype.numpy)


# the file --------------------------------------------------------------------------------
def to_text(reproduction: Reproduction) -> str:
    """The file's text. TypeError for a graph that has no text form."""
    values = reproduction.values
    if sum(array.nbytes for array in values.values()) > MOST_BYTES:
        values = {}
    facts = {
        "format": FORMAT,
        "stage": reproduction.stage,
        "error": reproduction.error,
        "message": reproduction.message,
        "passes": list(reproduction.passes),
        "options": dict(reproduction.options),
        "sizes": dict(reproduction.sizes),
        "seed": reproduction.seed,
        "values": {p: _encoded(array) for p, array in sorted(values.items())},
        "imports": list(reproduction.imports),
    }
    first = reproduction.failure.splitlines()[0]
    title = re.sub(r'[\\"]', "'", f"A failure of flamec. {first}")
    return _FILE.format(
        title=title,
        facts=pprint.pformat(facts, width=100, sort_dicts=False),
        graph=_literal(print_graph(reproduction.graph)),
    )


def _literal(text: str) -> str:
    plain = "\\" not in text and '"""' not in text
    return f'"""\\\n{text}\n"""' if plain else repr(text)


def read(path: Path) -> Reproduction:
    """The reproduction in a file; FileFormatError says what is amiss with the file."""
    try:
        tree = ast.parse(path.read_text())
        found = {
            target.id: ast.literal_eval(statement.value)
            for statement in tree.body
            if isinstance(statement, ast.Assign)
            for target in statement.targets
            if isinstance(target, ast.Name) and target.id in ("REPRODUCTION", "GRAPH")
        }
        facts, text = found["REPRODUCTION"], found["GRAPH"]
        if facts["format"] != FORMAT:
            raise FileFormatError(f"{path}: format {facts['format']}; expected {FORMAT}")
        for name, file in facts["imports"]:
            _import(name, file)
        graph = parse_graph(text)
        return Reproduction(
            graph,
            facts["stage"],
            facts["error"],
            facts["message"],
            tuple(facts["passes"]),
            facts["options"],
            facts["sizes"],
            {p: _decoded(graph, p, content) for p, content in facts["values"].items()},
            facts["seed"],
            tuple((name, file) for name, file in facts["imports"]),
        )
    except (SyntaxError, UnicodeDecodeError, KeyError, ValueError, TypeError, ImportError) as error:
        if isinstance(error, FileFormatError):
            raise
        what = f"line of the graph: {error}" if isinstance(error, ParseError) else repr(error)
        raise FileFormatError(f"{path} is no reproduction of flamec: {what}") from error


def _import(name: str, file: str) -> None:
    """Run the module ``name``, from its file where it cannot be found by its name."""
    if name in sys.modules and name != "__main__":
        return
    if name != "__main__" and importlib.util.find_spec(name) is not None:
        importlib.import_module(name)
        return
    alias = f"_declares_{Path(file).stem}"
    if alias in sys.modules:
        return
    specification = importlib.util.spec_from_file_location(alias, file)
    if specification is None or specification.loader is None or not Path(file).is_file():
        raise FileFormatError(f"the module {name}, which declares a kernel, is not at {file}")
    module = importlib.util.module_from_spec(specification)
    sys.modules[alias] = module
    specification.loader.exec_module(module)


def is_reproduction(path: Path) -> bool:
    """Whether a file says that it is one."""
    if path.suffix != ".py" or not path.is_file():
        return False
    with path.open(errors="replace") as file:
        return any(line.startswith("REPRODUCTION = {") for line in file)


def _encoded(array: np.ndarray) -> tuple[tuple[int, ...], str]:
    return array.shape, base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def _decoded(graph: Graph, position: int, content: tuple[tuple[int, ...], str]) -> np.ndarray:
    shape, text = content
    dtype = graph.inputs[position].type.dtype.numpy
    return np.frombuffer(base64.b64decode(text), dtype).reshape(shape).copy()
