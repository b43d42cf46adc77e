"""Graphs to text and back."""

from __future__ import annotations

import math

import pytest

import flamec.ir.ops  # noqa: F401 - registers the operations
from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Graph, Location
from flamec.ir.parser import ParseError, parse_attributes, parse_graph, parse_type
from flamec.ir.printer import format_attribute, print_graph
from flamec.ir.shape import SymbolicDim
from flamec.ir.types import CPU, Device, TensorType, bool_, float32, float64, int64

B, C = SymbolicDim.symbol("B"), SymbolicDim.symbol("C")
CUDA = Device("cuda", 1)


def example() -> Graph:
    b = GraphBuilder()
    x = b.input(TensorType((B, 10), float32), "x")
    w = b.input(TensorType((10,), float32), "state['w'][0]")
    two = b.constant(2.0, x.type)
    b.location, b.scope = Location("/home/user/my model.py", 12, "forward"), "layers.0"
    y = b.mul(b.add(x, w), two)
    b.location, b.scope = Location("train.py", 3), ""
    values, indices = b.cummax(y, axis=1)
    b.location = None
    return b.build([values, indices, y], {1: b.neg(w)}, "step")


EXPECTED = """\
graph step {
  input %0 x: float32[B, 10]
  input %1 "state['w'][0]": float32[10]
  %2: float32[] = full(value=2.0, shape=(), dtype=float32, device=cpu)
  %3: float32[B, 10] = add(%0, %1)  # my model.py:12 forward | layers.0
  %4: float32[B, 10] = mul(%3, %2)  # my model.py:12 forward | layers.0
  %5: float32[B, 10], %6: int64[B, 10] = cummax(%4, axis=1)  # train.py:3
  %7: float32[10] = neg(%1)
  return %5, %6, %4
  update %1 = %7
}"""


def test_text() -> None:
    assert print_graph(example()) == EXPECTED


def test_locations_can_be_left_out() -> None:
    assert "#" not in print_graph(example(), locations=False)
    assert parse_graph(print_graph(example(), locations=False)).fingerprint() == (
        example().fingerprint()
    )


def test_reads_back_names_and_locations() -> None:
    again = parse_graph(EXPECTED)
    assert again.fingerprint() == example().fingerprint()
    assert again.name == "step" and again.inputs[1].name == "state['w'][0]"
    assert again.nodes[1].location == Location("my model.py", 12, "forward")
    assert again.nodes[1].scope == "layers.0" and again.nodes[3].location == Location("train.py", 3)
    assert print_graph(again) == EXPECTED


def test_empty_graph() -> None:
    graph = GraphBuilder().build([])
    assert parse_graph(print_graph(graph)).fingerprint() == graph.fingerprint()


@pytest.mark.parametrize(
    "value",
    [
        0,
        -7,
        0.0,
        -0.0,
        1e-300,
        math.inf,
        -math.inf,
        math.nan,
        True,
        None,
        "add",
        "it's = (a, b)",
        (),
        (1,),
        ((1, 2), (3.0,)),
        float64,
        bool_,
        CPU,
        CUDA,
        B,
        B * 2 - 1,
        -B,
        (B * C, (B + 3) // 2, B // C),
    ],
    ids=repr,
)
def test_attributes_read_back(value: object) -> None:
    text = format_attribute(value)
    (again,) = parse_attributes(f"a={text}").values()
    assert format_attribute(again) == text
    assert type(again) is type(value)


@pytest.mark.parametrize(
    "type",
    [
        TensorType((), float32),
        TensorType((2, B, (B * C + 1) // 2), int64),
        TensorType((B // C,), bool_, CUDA),
    ],
    ids=str,
)
def test_types_read_back(type: TensorType) -> None:
    assert parse_type(str(type)) == type


def test_attribute_of_an_unknown_type() -> None:
    with pytest.raises(TypeError, match="cannot be list"):
        format_attribute([1])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("%8: float32[10] = neg(%9)", "%9 is not defined"),
        ("%7: float32[10] = neg(%1)", "%7 is defined twice"),
        ("%8: float32[10] = nog(%1)", "no op is called"),
        ("%8: float33[10] = neg(%1)", "unknown dtype"),
        ("%8: float32[1x] = neg(%1)", "not a dimension"),
        ("%8: float32[10] = sum(%1, axes=)", "not attributes"),
        ("hello", "not a statement"),
    ],
)
def test_errors_name_the_line(line: str, message: str) -> None:
    text = EXPECTED.replace("  return", f"  {line}\n  return")
    with pytest.raises(ParseError, match=message) as raised:
        parse_graph(text)
    assert str(raised.value).startswith("line 9:") and line in str(raised.value)


@pytest.mark.parametrize("text", ["", "graph g {", "graph g {\n}"])
def test_incomplete_text(text: str) -> None:
    with pytest.raises(ParseError):
        parse_graph(text)
