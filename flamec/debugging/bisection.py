"""Find the stage of the compiler after which a result is wrong.

In: a ``Reproduction``: a graph and inputs. Out: the first stage whose result is not that of the
traced graph, or None. Passes are judged by the NumPy evaluator, what follows them by running the
program: once with every task in a kernel of its own, which tells fusion from code generation.
Invariant: no stage before the one that is named changes a result beyond the tolerance.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from flamec.codegen.options import CodegenOptions
from flamec.config import CompileOptions
from flamec.debugging.comparison import (
    REFUSALS,
    Deviation,
    Results,
    deviation,
    evaluate,
    result_names,
    tolerance,
)
from flamec.debugging.graph_changes import change
from flamec.debugging.replay import compile_anew, options_of, selected
from flamec.debugging.reproduction import Reproduction
from flamec.ir.graph import Graph, Location
from flamec.ir.passes.manager import Pass
from flamec.ir.printer import format_location, format_node, number_values
from flamec.prepared import Prepared, errors_of_compilation, graph_device, stage_error

FUSION, CODE = "fuse", "code generation"


@dataclass(frozen=True)
class Finding:
    """``stage`` made a result wrong. ``before`` and ``after``: nodes that it took away and put
    in, as text; ``locations``: the user's lines, with module paths; ``right``: the stages
    before it.
    """

    stage: str
    what: str
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    locations: tuple[tuple[Location, str], ...] = ()
    right: tuple[str, ...] = ()

    def lines(self, describe: Callable[[Location, str], str] = format_location) -> list[str]:
        """For people: the stage, the value, the nodes, the user's lines."""
        found = [f"the first stage that changes a result: {self.stage}", f"  {self.what}"]
        if self.before:
            found += ["before:", *(f"  {line}" for line in self.before)]
        if self.after:
            found += ["after:" if self.before else "computed by:"]
            found += [f"  {line}" for line in self.after]
        if self.locations:
            found += ["your lines:", *(f"  {describe(*place)}" for place in self.locations)]
        found.append(f"right until then: {', '.join(self.right) or 'the trace'}")
        return found


def bisect(
    reproduction: Reproduction, allowed: float | None = None, until: str = ""
) -> Finding | None:
    """See the module's docstring. ``allowed``: how far results may be off, relative to their
    largest element; by default as the least precise float of the graph allows. ``until``: the
    last stage that is looked at, where it is a pass.

    StageError for a stage that fails; ValueError where the traced graph itself cannot be
    evaluated with the inputs.
    """
    return _Bisection(reproduction, allowed, until).run()


class _Bisection:
    def __init__(self, reproduction: Reproduction, allowed: float | None, until: str) -> None:
        self.until = until
        self.reproduction = reproduction
        self.graph = reproduction.graph
        self.inputs = reproduction.inputs()
        self.bindings = reproduction.bindings
        self.options, self.codegen = options_of(reproduction)
        self.allowed = {
            wide: tolerance(self.graph, wide) if allowed is None else allowed
            for wide in (True, False)
        }
        self.right: list[str] = []
        try:
            self.expected = {False: self._evaluated(self.graph, False)}
        except REFUSALS as error:
            raise ValueError(f"the traced graph fails with these inputs: {error}") from error
        with contextlib.suppress(*REFUSALS):  # an operation that takes its own dtypes only
            self.expected[True] = self._evaluated(self.graph, True)

    def run(self) -> Finding | None:
        entries = selected(self.reproduction.passes, self.options.numerics == "strict")
        prepared = Prepared(self.graph, None, self.options, None, self.codegen, passes=entries)
        with errors_of_compilation(prepared, "passes"):
            records = prepared.pass_records
        for record in records:
            if record.changed:
                found = self._judge(record.name, record.before, record.after)
                if found is not None:
                    return found
            self._passed(record.name)
        if self.until in {record.name for record in records}:
            return None
        optimized = prepared.optimized
        last = optimized
        for entry in self._last_passes():
            try:
                after = entry.run(last)
            except Exception as error:
                raise stage_error(prepared, entry.name, error) from error
            if after is not last:
                found = self._judge(entry.name, last, after)
                if found is not None:
                    return found
            self._passed(entry.name)
            if entry.name == self.until:
                return None
            last = after
        return self._program(optimized)

    def _passed(self, name: str) -> None:
        if name not in self.right:
            self.right.append(name)

    def _evaluated(self, graph: Graph, wide: bool) -> Results:
        return evaluate(graph, self.inputs, self.bindings, wide)

    def _last_passes(self) -> Sequence[Pass]:
        if graph_device(self.graph).type == "cuda":
            from flamec.codegen.triton import compile_graph as triton

            return triton.last_passes(self.codegen)
        from flamec.codegen import compile_graph as c

        return c.last_passes(self.codegen)

    # passes ----------------------------------------------------------------------------
    def _judge(self, stage: str, before: Graph, after: Graph) -> Finding | None:
        what = self._wrong(after)
        if what is None:
            return None
        made = change(before, after)
        return Finding(
            stage,
            what,
            made.removed,
            made.added,
            made.locations,
            tuple(self.right),
        )

    def _wrong(self, graph: Graph) -> str | None:
        for wide, expected in self.expected.items():
            try:
                found = self._evaluated(graph, wide)
            except REFUSALS as error:
                return f"the graph cannot be evaluated: {type(error).__name__}: {error}"
            differs = deviation(expected, found, self.allowed[wide])
            if differs is not None:
                return f"{differs}" + (", computed in float64" if wide else "")
        return None

    # programs --------------------------------------------------------------------------
    def _program(self, optimized: Graph) -> Finding | None:
        expected = self.expected[False]
        together = self._run(optimized, fuse=True)
        if together is None:
            return None
        differs = deviation(expected, together, self.allowed[False])
        if differs is None:
            return None
        apart = self._run(optimized, fuse=False)
        assert apart is not None
        if deviation(expected, apart, self.allowed[False]) is None:
            return self._fused(optimized, differs)
        return self._generated(optimized, differs)

    def _fused(self, optimized: Graph, differs: Deviation) -> Finding:
        prepared = Prepared(optimized, None, self.options, None, self.codegen, passes=())
        kernels = [k for k in prepared.compiled.kernels if len(k.operations) > 1]
        after = tuple(f"{k.name} ({k.kind}): {', '.join(k.operations)}" for k in kernels)
        places = dict.fromkeys((_place(line), "") for k in kernels for line in k.locations)
        return Finding(FUSION, str(differs), (), after, tuple(places), tuple(self.right))

    def _generated(self, optimized: Graph, differs: Deviation) -> Finding:
        """The first node whose value the program gets wrong, when every value is an output."""
        values = [v for node in optimized.nodes for v in node.outputs]
        shown = replace(optimized, outputs=(*optimized.outputs, *values))
        expected, found = self._evaluated(shown, False), self._run(shown, fuse=False)
        assert found is not None
        first = len(optimized.outputs)
        for position, value in enumerate(values, first):
            one = Results(expected.names[:1], expected.arrays[position : position + 1])
            other = Results(found.names[:1], found.arrays[position : position + 1])
            wrong = deviation(one, other, self.allowed[False])
            if wrong is not None and value.node is not None:
                node, numbers = value.node, number_values(optimized)
                text = f"%{numbers[value]}{str(wrong).removeprefix('output 0')}"
                places = () if node.location is None else ((node.location, node.scope),)
                after = (format_node(node, numbers, locations=False),)
                return Finding(CODE, f"{differs}\n  {text}", (), after, places, tuple(self.right))
        return Finding(CODE, str(differs), right=tuple(self.right))

    def _run(self, graph: Graph, fuse: bool) -> Results | None:
        """What the compiled program gives; None where there is nothing to run it."""
        return run_program(graph, self.inputs, self.reproduction, self.options, self.codegen, fuse)


def run_program(
    graph: Graph,
    inputs: Sequence[np.ndarray],
    reproduction: Reproduction,
    options: CompileOptions,
    codegen: CodegenOptions,
    fuse: bool,
) -> Results | None:
    """Compile an optimized graph and run it; None without a compiler or GPU. StageError."""
    codegen = replace(codegen, fuse=fuse)
    symbols = reproduction.symbols
    prepared = compile_anew(graph, symbols, options, codegen, ())
    if prepared.runner is None:
        return None
    invocation = prepared.bind(tuple(reproduction.bindings[s] for s in symbols))
    given = [np.array(array) for array in inputs]
    for position, array in enumerate(given):
        invocation.set_input(position, array)
    outputs = []
    expected = evaluate(graph, inputs, reproduction.bindings)
    for position in range(len(graph.outputs)):
        array = np.empty_like(expected.arrays[position], order="C")
        outputs.append(array)
        invocation.set_output(position, array)
    invocation.run()
    updated = [given[p] for p in sorted(graph.updates)]
    return Results(result_names(graph), (*outputs, *updated))


def _place(text: str) -> Location:
    """A location that a kernel keeps as ``FILE:LINE``."""
    file, _, line = text.rpartition(":")
    return Location(file, int(line)) if line.isdecimal() else Location(text, 0)
