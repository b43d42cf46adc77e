"""``flamec ops``: every primitive operation, and which of PyTorch's names there are."""

from __future__ import annotations

from collections.abc import Sequence
from types import FunctionType
from typing import Annotated, Any

import typer

import flamec
import flamec.nn.functional
from flamec.cli import coverage
from flamec.cli.console import make_console, make_table, print_json, print_table
from flamec.ir.op import REGISTRY, Op, OpKind

_COVERAGE = ("family of names", "listed", "there", "missing")
_COLUMNS = ("op", "kind", "derivative", "C", "Triton", "facts")


def complete_kind(incomplete: str) -> list[str]:
    """Kinds of operations for tab completion."""
    return [k.value for k in OpKind if k.value.startswith(incomplete)]


def ops(
    kind: Annotated[
        str | None,
        typer.Option(
            help="Only this kind, such as reduction.",
            autocompletion=complete_kind,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Data for programs.")] = False,
) -> None:
    """List every primitive operation with what is implemented for it, and PyTorch's names."""
    known = [k.value for k in OpKind]
    if kind is not None and kind not in known:
        raise typer.BadParameter(f"no kind is called {kind!r}; there are {', '.join(known)}")
    rows = [op_data(op) for op in REGISTRY.values() if kind in (None, op.kind.value)]
    functions = public_functions()
    if as_json:
        print_json({"ops": rows, "functions": functions, "coverage": coverage_data()})
        return
    console = make_console()
    cells = [
        (
            row["name"],
            row["kind"],
            "yes" if row["derivative"] else "zero",
            row["c"] or "no",
            row["triton"] or "no",
            ", ".join(row["facts"]),
        )
        for row in rows
    ]
    print_table(console, make_table(_COLUMNS, cells))
    counts = ", ".join(f"{len(names)} in {place}" for place, names in functions.items())
    console.print(
        "\nderivative zero: no gradient flows through it. C and Triton: text, a formula; kind, "
        "lowered like all of its kind; free, costs no code; host, computed by NumPy in the host's "
        "memory."
    )
    console.print(f"{len(rows)} primitives; public functions: {counts}\n")
    table = [
        (family, str(row["names"]), str(row["present"]), ", ".join(row["missing"]))
        for family, row in coverage_data().items()
    ]
    print_table(console, make_table(_COVERAGE, table))
    names = [member for row in coverage.families().values() for member in row]
    present = sum(map(coverage.is_present, names))
    console.print(f"\n{present} of {len(names)} of PyTorch's names (first tier) are there.")


def coverage_data() -> dict[str, dict[str, Any]]:
    """For each family how many of PyTorch's names there are, and which are missing."""
    return {
        family: {
            "names": len(members),
            "present": sum(map(coverage.is_present, members)),
            "missing": [str(name) for name in members if not coverage.is_present(name)],
        }
        for family, members in coverage.families().items()
    }


def op_data(op: Op) -> dict[str, Any]:
    """One row. ``c`` and ``triton``: "text" (the declaration has its formula), "kind" (lowered
    like all of its kind), "free" (no code is needed), "host" (computed by NumPy in the host's
    memory), or "" (not there)."""
    facts = [
        f for f in ("commutative", "associative", "involution", "idempotent") if getattr(op, f)
    ]
    if op.identity is not None:
        facts.append("identity")
    if op.expensive:
        facts.append("expensive")
    return {
        "name": op.name,
        "kind": op.kind.value,
        "derivative": op.derivative is not None,
        "c": _availability(op, op.c, (OpKind.HOST, OpKind.SORT)),
        "triton": _availability(op, op.triton, (OpKind.HOST,)),
        "facts": facts,
        "doc": op.doc,
    }


def _availability(op: Op, text: object, on_the_host: Sequence[OpKind]) -> str:
    """Of one back end: ``text`` is the formula that the declaration has for it."""
    if text is not None:
        return "text"
    if op.kind in (OpKind.VIEW, OpKind.BARRIER):
        return "free"
    if op.kind in on_the_host:
        return "host"
    by_formula = (OpKind.ELEMENTWISE, OpKind.REDUCTION, OpKind.SCAN)
    nowhere = (OpKind.CALL, OpKind.COMPOSITE, OpKind.UNBOUNDED)
    return "" if op.kind in (*by_formula, *nowhere) else "kind"


def public_functions() -> dict[str, list[str]]:
    """The names of the public functions by namespace."""
    places = {
        "flamec": flamec,
        "flamec.nn.functional": flamec.nn.functional,
        "flamec.Tensor": flamec.Tensor,
    }
    return {
        place: sorted(
            name
            for name in dir(owner)
            if not name.startswith("_") and isinstance(getattr(owner, name), FunctionType)
        )
        for place, owner in places.items()
    }
