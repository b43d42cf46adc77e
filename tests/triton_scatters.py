"""Scatters of many rows in Triton's interpreter, against NumPy: order, exactness, few places.

Run as a program with TRITON_INTERPRET=1: a line of JSON for each case with what was wrong.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

from flamec.codegen.options import CodegenOptions
from flamec.codegen.triton.compile_graph import compile_graph
from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Graph
from flamec.ir.passes.manager import run_passes
from flamec.ir.passes.pipeline import pipeline
from flamec.ir.plan import ExecutionPlan
from flamec.ir.shape import Dim, SymbolicDim
from flamec.ir.types import CPU, DType, TensorType, dtype_named, int64

N = SymbolicDim.symbol("N")


@dataclass(frozen=True)
class Case:
    """``rows`` values of ``inner`` elements are put into a table at ``places`` indices; with
    ``lines`` each of so many lines has a table of its own."""

    mode: str
    dtype: str = "float32"
    places: tuple[int, ...] = (50,)
    rows: int = 1500
    inner: tuple[int, ...] = ()
    symbolic: bool = False
    special: bool = False
    lines: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        sizes = "x".join(map(str, (self.rows, *self.inner)))
        kinds = [k for k in ("symbolic", "special") if getattr(self, k)]
        kinds += [f"{self.lines} lines"] if self.lines else []
        return " ".join([self.mode, self.dtype, sizes, str(self.places), *kinds, *self.options])

    @property
    def given(self) -> DType:
        return dtype_named(self.dtype)

    def plan(self) -> ExecutionPlan:
        graph = run_passes(self._graph(), pipeline(), False)[0]
        hints = {"size_hints": {"N": self.rows}} if self.symbolic else {}
        return compile_graph(graph, CodegenOptions(**hints, **self.options)).plan

    def _graph(self) -> Graph:
        b = GraphBuilder()
        rows: Dim = N if self.symbolic else self.rows
        lines = (self.lines,) if self.lines else ()
        table = b.input(TensorType((*lines, *self.places, *self.inner), self.given))
        values = b.input(TensorType((*lines, rows, *self.inner), self.given))
        indices = [b.input(TensorType((*lines, rows), int64)) for _ in self.places]
        if lines:
            indices.insert(0, b.iota(shape=(*lines, rows), axis=0, dtype=int64, device=CPU))
        return b.build([b.index_put(table, values, *indices, mode=self.mode)])

    def operands(self, random: np.random.Generator) -> list[np.ndarray]:
        lines = (self.lines,) if self.lines else ()
        table = self._values(random, *lines, *self.places, *self.inner)
        values = self._values(random, *lines, self.rows, *self.inner)
        indices = [random.integers(-n, n, (*lines, self.rows)) for n in self.places]
        if self.mode == "over":  # places of their own, a third of the rows or more none
            chosen = random.permutation(max(int(np.prod(self.places)), self.rows))[: self.rows]
            found = np.unravel_index(chosen % np.prod(self.places), self.places)
            indices = [i.astype(np.int64) for i in found]
            none = (chosen >= np.prod(self.places)) | (random.random(self.rows) < 1 / 3)
            indices[-1][none] -= 10000
        if self.special:  # two places that get zeros alone: of one sign each, for a sum one of both
            place = indices[0] % self.places[0]
            table[..., :2] = {"add": -0.0, "amax": -np.inf, "amin": np.inf}[self.mode]
            values[place == 0], values[place == 1] = -0.0, 0.0
            if self.mode == "add":
                values.reshape(-1, *self.inner)[np.flatnonzero(place == 1)[::2]] = -0.0
        return [table, values, *indices]

    def _values(self, random: np.random.Generator, *shape: int) -> np.ndarray:
        kind = self.given
        if kind.kind == "bool":
            return random.random(shape) < 0.5
        if kind.kind != "float" and self.mode == "prod":  # odd, so that none becomes zero
            return (2 * random.integers(-50, 50, shape) + 1).astype(kind.numpy)
        if kind.kind != "float":
            low = 0 if kind.kind == "uint" else -100
            return random.integers(low, 100, shape).astype(kind.numpy)
        if self.mode == "prod":
            return (1 + random.standard_normal(shape) / 64).astype(kind.numpy)
        exponents = random.integers(-20, 20, shape) if kind.itemsize > 2 else 0
        values = random.standard_normal(shape) * 10.0**exponents
        if self.special:
            facts = ml_dtypes.finfo(kind.numpy)
            least, large = float(facts.smallest_subnormal), float(facts.max) / 4096
            odd = [np.nan, np.inf, -np.inf, 0.0, -0.0, least, large]
            some = random.random(shape) < 0.02
            values = np.where(some, random.choice(odd, shape), values)
        return values.astype(kind.numpy)

    def wrong(self, found: np.ndarray, operands: list[np.ndarray]) -> str:
        """What differs from NumPy: of sums more than twice what rounding each once may cost; of
        zeros the sign."""
        table, values, *indices = operands
        at = tuple(indices)
        if self.lines:
            at = (np.arange(self.lines)[:, None], *at)
        with np.errstate(all="ignore"):
            if self.mode == "add" and self.given.kind == "float":
                wide = table.astype(np.longdouble)
                np.add.at(wide, at, values.astype(np.longdouble))
                size = np.abs(table.astype(np.longdouble))
                np.add.at(size, at, np.abs(values.astype(np.longdouble)))
                narrow = ml_dtypes.finfo(self.given.numpy)
                error = np.abs(found.astype(np.longdouble) - wide)
                bound = size * float(narrow.eps) + float(narrow.smallest_subnormal)
                same = np.isnan(found) & np.isnan(wide.astype(self.given.numpy))
                same |= found == wide.astype(self.given.numpy)
                right = (same | (error <= bound)) & ((size != 0) | _have_one_sign(found, wide))
            elif self.mode == "prod" and self.given.kind == "float":
                wanted = table.astype(np.longdouble)
                np.multiply.at(wanted, at, values.astype(np.longdouble))
                eps = float(ml_dtypes.finfo(self.given.numpy).eps)
                once = 64 * float(np.finfo(np.float32).eps) if eps > 1e-3 else 63 * eps
                right = np.abs(found - wanted) <= (eps + once) * np.abs(wanted)
            else:
                wanted = table.copy()
                if self.mode == "over":
                    put = np.min(at, axis=0) >= 0
                    wanted = found.copy()  # elsewhere it is not specified
                    wanted[tuple(index[put] for index in at)] = values[put]
                elif self.mode == "set":
                    wanted[at] = values
                else:
                    ufunc = {
                        "add": np.add,
                        "prod": np.multiply,
                        "amax": np.maximum,
                        "amin": np.minimum,
                    }[self.mode]
                    ufunc.at(wanted, at, values)
                right = found == wanted
                if self.given.kind == "float":
                    right |= np.isnan(found) & np.isnan(wanted)
                    right &= (wanted != 0) | _have_one_sign(found, wanted)
        if right.all():
            return ""
        first = tuple(int(i) for i in np.argwhere(~right)[0])
        return f"{(~right).sum()} elements, the first {first}: {found[first]}"


def _have_one_sign(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    signs = [np.signbit(a.astype(np.float64)) for a in (found, wanted)]
    return np.equal(*signs)


def cases() -> Iterator[Case]:
    for dtype in ("float32", "int8", "bool"):
        yield Case("set", dtype)
    yield Case("set", places=(7, 11), inner=(5,))
    yield Case("set", places=(3000,), symbolic=True)
    yield Case("over", places=(3000,))
    yield Case("over", "int64", places=(50, 41), symbolic=True)
    yield Case("over", "bool", places=(40, 41), inner=(5,))
    for dtype in ("float32", "float64", "bfloat16", "float16"):
        yield Case("add", dtype, places=(500,), special=dtype != "float16")
        yield Case("add", dtype, places=(20,), special=True)
    yield Case("add", places=(7, 9), inner=(3,), special=True)
    yield Case("add", places=(40,), symbolic=True)
    yield Case("add", places=(600,), inner=(2, 3), symbolic=True)
    yield Case("add", "int16", places=(500,))
    yield Case("add", "uint8", places=(500,), inner=(2,))
    yield Case("add", "int64", places=(9,))
    yield Case("add", "int32", places=(9,), symbolic=True)
    yield Case("add", places=(9,), options={"deterministic": False})
    yield Case("add", "float16", places=(500,), options={"deterministic": False})
    for mode in ("amax", "amin"):
        yield Case(mode, places=(500,), special=True)
        yield Case(mode, "float64", places=(9,), special=True)
        yield Case(mode, "bfloat16", places=(9, 50), inner=(3,))
        yield Case(mode, "int8", places=(9,))
        yield Case(mode, "int64", places=(9,))
        yield Case(mode, "uint8", places=(500,))


def cases_with_tables() -> Iterator[Case]:
    """Those that blocks combine in tables of their own: of all places, and of a line each."""
    yield Case("add", "int64", places=(100,), rows=70_001)
    yield Case("add", "int32", places=(7, 9), rows=70_001)
    yield Case("add", "int8", places=(100,), rows=70_001)
    yield Case("add", places=(100,), rows=70_001, special=True)
    yield Case("add", "float64", places=(50,), rows=70_001, special=True)
    yield Case("add", "bfloat16", places=(50,), rows=70_001, symbolic=True)
    yield Case("amax", places=(50,), rows=70_001, special=True)
    yield Case("amin", "int32", places=(50,), rows=70_001)
    yield Case("set", places=(100,), rows=70_001)
    for rows, lines in ((257, 64), (1500, 11)):  # of one block of columns, and of more
        yield Case("set", places=(300,), rows=rows, lines=lines)
        yield Case("add", places=(300,), rows=rows, lines=lines, special=True)
    long = {"rows": 1500, "lines": 11}
    yield Case("set", "int64", places=(5, 7), **long)
    yield Case("add", "float64", places=(300,), **long)
    yield Case("add", "float16", places=(40, 3), **long)
    yield Case("add", "uint8", places=(40,), **long)
    yield Case("amax", places=(300,), special=True, **long)
    yield Case("amin", "bfloat16", places=(300,), **long)
    no_order = {"deterministic": False}
    yield Case("add", places=(2000,), rows=300, lines=64, symbolic=True, options=no_order)


def product_cases() -> Iterator[Case]:
    """Those that are put in the order of their places first."""
    yield Case("prod", places=(50,))
    yield Case("prod", "int64", places=(1,))
    yield Case("prod", "bfloat16", places=(7, 11), inner=(3,), symbolic=True)


def main() -> None:
    from triton_interpreter import run_plan

    for case in (*cases(), *cases_with_tables(), *product_cases()):
        operands = case.operands(np.random.default_rng(1))
        bindings = {"N": case.rows} if case.symbolic else {}
        (found,), _ = run_plan(case.plan(), operands, bindings)
        wrong = case.wrong(found, operands)
        print(json.dumps({"row": case.name, "wrong": [wrong] if wrong else []}), flush=True)


if __name__ == "__main__":
    main()
