"""Text back to a graph: the inverse of ``printer.py``.

In: text as ``print_graph`` writes it. Out: a graph with the same fingerprint.
Types are taken from the text as they stand; ``verify`` compares them with the
shape rules. Anything unexpected is a ``ParseError`` with the line's number.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from flamec.ir.graph import Graph, Location, Node, Value
from flamec.ir.op import lookup
from flamec.ir.shape import SymbolicDim, parse_dim
from flamec.ir.types import ALL_DTYPES, CPU, Device, TensorType, dtype_named

_NAME = r'(?P<name>[A-Za-z_][\w.]*|"(?:[^"\\]|\\.)*")'
_HEAD = re.compile(rf"graph {_NAME} \{{")
_BODY = re.compile(rf"body (?P<number>\d+) {_NAME} \{{")
_INPUT = re.compile(rf"input %(?P<number>\d+)(?: {_NAME})?: (?P<type>.+)")
_NODE = re.compile(r"(?P<results>%\d+: .+?) = (?P<op>\w+)\((?P<arguments>.*)\)")
_RESULT = re.compile(r"%(\d+): (\w+\[[^\]]*\](?:@\w+:\d+)?)(?:, |$)")
_TYPE = re.compile(r"(?P<dtype>\w+)\[(?P<shape>[^\]]*)\](?:@(?P<device>\w+):(?P<index>\d+))?")
_OPERANDS = re.compile(r"(?P<operands>(?:%\d+(?:, )?)*)(?P<attributes>.*)")
_UPDATE = re.compile(r"update %(\d+) = %(\d+)")
_LOCATION = re.compile(
    r"(?P<file>.+?):(?P<line>\d+)(?: (?P<function>[^|]+?))?(?: \| (?P<scope>.*))?"
)

_WORDS: dict[str, Any] = {d.name: d for d in ALL_DTYPES} | {
    "cpu": CPU,
    "inf": math.inf,
    "nan": math.nan,
}


class ParseError(ValueError):
    """Text that is not the text of a graph; says which line."""


def parse_type(text: str) -> TensorType:
    """``float32[B, 10]@cuda:0`` as a type; ValueError for anything else."""
    match = _TYPE.fullmatch(text)
    if match is None:
        raise ValueError(f"not a type: {text!r}")
    try:
        dims = ast.parse(f"({match['shape']},)" if match["shape"] else "()", mode="eval").body
    except SyntaxError:
        raise ValueError(f"not a dimension: {match['shape']!r} in {text!r}") from None
    assert isinstance(dims, ast.Tuple)
    device = Device(match["device"], int(match["index"])) if match["device"] else CPU
    return TensorType(
        tuple(parse_dim(ast.unparse(d)) for d in dims.elts), dtype_named(match["dtype"]), device
    )


def parse_attributes(text: str, bodies: Mapping[int, Graph] | None = None) -> dict[str, Any]:
    """``axes=(0, 1), dtype=float32`` as a dict; ValueError for anything else.

    ``bodies``: the graphs by the numbers under which they were printed.
    """
    try:
        call = ast.parse(f"_({text})", mode="eval").body
    except SyntaxError:
        raise ValueError(f"not attributes: {text!r}") from None
    if not isinstance(call, ast.Call) or call.args:
        raise ValueError(f"not attributes: {text!r}")
    attributes: dict[str, Any] = {}
    for keyword in call.keywords:
        if keyword.arg is None or keyword.arg in attributes:
            raise ValueError(f"not attributes: {text!r}")
        attributes[keyword.arg] = _attribute(keyword.value, bodies or {})
    return attributes


def _attribute(node: ast.expr, bodies: Mapping[int, Graph]) -> Any:
    match node:
        case ast.Tuple(elts=elements):
            return tuple(_attribute(e, bodies) for e in elements)
        case ast.Constant(value=None | bool() | int() | float() | str()):
            return node.value
        case ast.Name(id=name):
            return _WORDS[name] if name in _WORDS else SymbolicDim.symbol(name)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant() | ast.Name() as operand):
            return -_attribute(operand, bodies)
        case ast.Call(func=ast.Name(id=name), args=[ast.Constant(value=int(index))], keywords=[]):
            if name != "body":
                return Device(name, index)
            if index not in bodies:
                raise ValueError(f"body {index} is not defined")
            return bodies[index]
    return parse_dim(ast.unparse(node))


def parse_graph(text: str) -> Graph:
    """The graph that ``text`` describes; ParseError names the line that does not fit."""
    return _Parser().parse(text)


class _Parser:
    def __init__(self) -> None:
        self.values: dict[int, Value] = {}
        self.inputs: list[Value] = []
        self.nodes: list[Node] = []
        self.outputs: tuple[Value, ...] | None = None
        self.updates: dict[int, Value] = {}
        self.bodies: dict[int, Graph] = {}

    def parse(self, text: str) -> Graph:
        numbered = ((i, line.strip()) for i, line in enumerate(text.splitlines(), 1))
        lines = [(i, line) for i, line in numbered if line and not line.startswith("#")]
        head = _HEAD.fullmatch(lines[0][1]) if lines else None
        if head is None or lines[-1][1] != "}":
            raise ParseError("the text of a graph begins with 'graph NAME {' and ends with '}'")
        return self.block(lines[1:-1], _name(head["name"]))

    def block(self, lines: list[tuple[int, str]], name: str) -> Graph:
        """The graph whose statements these numbered lines are."""
        rest = iter(lines)
        for number, line in rest:
            try:
                if match := _BODY.fullmatch(line):
                    body = _Parser().block(_nested(rest), _name(match["name"]))
                    self.bodies[int(match["number"])] = body
                else:
                    self.statement(line)
            except ParseError:
                raise
            except (ValueError, KeyError) as error:
                message = error.args[0] if error.args else error
                raise ParseError(f"line {number}: {message}: {line}") from error
        if self.outputs is None:
            raise ParseError("there is no 'return'")
        return Graph(tuple(self.inputs), tuple(self.nodes), self.outputs, self.updates, name)

    def statement(self, line: str) -> None:
        if line == "return" or line.startswith("return "):
            self.outputs = self.operands(line[len("return") :].strip())
        elif match := _INPUT.fullmatch(line):
            name = _name(match["name"]) if match["name"] else None
            value = Value(parse_type(match["type"]), None, len(self.inputs), name)
            self.inputs.append(value)
            self.define(match["number"], value)
        elif match := _UPDATE.fullmatch(line):
            position = self.inputs.index(self.value(match[1]))
            self.updates[position] = self.value(match[2])
        else:
            self.node(line)

    def node(self, line: str) -> None:
        code, location, scope = _split_location(line)
        match = _NODE.fullmatch(code)
        results = list(_RESULT.finditer(match["results"])) if match else []
        if match is None or "".join(r[0] for r in results) != match["results"]:
            raise ValueError("not a statement")
        arguments = _OPERANDS.fullmatch(match["arguments"])
        assert arguments is not None  # both parts of the pattern may be empty
        node = Node(
            lookup(match["op"]),
            self.operands(arguments["operands"].removesuffix(", ")),
            parse_attributes(arguments["attributes"], self.bodies),
            location,
            scope,
            tuple(parse_type(r[2]) for r in results),
        )
        self.nodes.append(node)
        for result, value in zip(results, node.outputs, strict=True):
            self.define(result[1], value)

    def operands(self, text: str) -> tuple[Value, ...]:
        return tuple(self.value(t.removeprefix("%")) for t in text.split(", ") if t)

    def value(self, number: str) -> Value:
        if not number.isdecimal() or int(number) not in self.values:
            raise ValueError(f"%{number} is not defined")
        return self.values[int(number)]

    def define(self, number: str, value: Value) -> None:
        if int(number) in self.values:
            raise ValueError(f"%{number} is defined twice")
        self.values[int(number)] = value


def _nested(lines: Iterator[tuple[int, str]]) -> list[tuple[int, str]]:
    """The lines up to the brace that closes a body, which is taken, too."""
    found: list[tuple[int, str]] = []
    depth = 1
    for number, line in lines:
        depth += (_BODY.fullmatch(line) is not None) - (line == "}")
        if not depth:
            return found
        found.append((number, line))
    raise ParseError("a body is not closed by '}'")


def _name(text: str) -> str:
    return json.loads(text) if text.startswith('"') else text


def _split_location(line: str) -> tuple[str, Location | None, str]:
    """The statement, and the comment after it read as a source line and module path."""
    code, separator, comment = line.rpartition("  # ")
    match = _LOCATION.fullmatch(comment) if separator and code.endswith(")") else None
    if match is None:
        return line, None, ""
    location = Location(match["file"], int(match["line"]), match["function"] or "")
    return code, location, match["scope"] or ""
