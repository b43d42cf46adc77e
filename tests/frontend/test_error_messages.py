"""An error names the module, the operation, the shapes, the dimension, the user's line and a fix,
eager and compiled alike."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import pytest

import flamec
from flamec import nn


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, x: Any) -> Any:
        return self.linear(x).relu()  # the line that errors name


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(Block(4, 8), Block(8, 8), Block(9, 2))

    def forward(self, x: Any) -> Any:
        return self.layers(x)


class Program(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = Network()

    def forward(self, x: Any) -> Any:
        return self.model(x)


LINE = Block.forward.__code__.co_firstlineno + 1


def step(program: Any) -> Callable[[Any], Any]:
    def run(x: Any) -> Any:
        loss = program(x).sum()
        loss.backward()
        return loss

    return run


WAYS: dict[str, Callable[[Any], Callable[[Any], Any]]] = {
    "eager": lambda program: program,
    "compiled module": flamec.compile,
    "compiled step": lambda program: flamec.compile(step(program)),
    "vmap": lambda program: flamec.func.vmap(program),
}


@pytest.mark.parametrize("way", WAYS)
def test_an_error_in_the_third_layer(way: str) -> None:
    call = WAYS[way](Program())
    with pytest.raises(RuntimeError) as caught:
        call(flamec.ones(3, 4))
    text = "".join(traceback.format_exception_only(caught.value))
    shape = "[8]" if way == "vmap" else "[3, 8]"
    for part in (
        "in module model.layers.2.linear (Linear)",
        "linear: ",
        f"input {shape} and weight [2, 9]",
        "the last dimension",
        f"{__file__}:{LINE}",
        "likely fix: dimension -1 of the input is 8, but in_features=9",
        "Linear(in_features=8, ...)",
    ):
        assert part in text, (part, text)
    assert text.count("in module") == text.count("likely fix") == 1


FIXES: list[tuple[Callable[[], Any], Callable[[], Any], str]] = [
    (
        lambda: nn.Conv2d(3, 4, 3),
        lambda: flamec.ones(2, 5, 8, 8),
        "dimension -3 of the input is 5, but in_channels=3: make the layer as Conv2d(in_channels=5",
    ),
    (
        lambda: nn.Conv2d(3, 4, 3),
        lambda: flamec.ones(2, 8, 8, 3),
        "if dimension 3 is meant, move it there: x.movedim(3, -3)",
    ),
    (
        lambda: nn.LayerNorm((4, 5)),
        lambda: flamec.ones(2, 4, 6),
        "dimension -1 of the input is 6, but normalized_shape=5",
    ),
    (lambda: nn.BatchNorm1d(3), lambda: flamec.ones(2, 4), "num_features=3"),
    (lambda: nn.GroupNorm(2, 6), lambda: flamec.ones(2, 4, 3), "num_channels=6"),
    (
        lambda: nn.MultiheadAttention(8, 2),
        lambda: (flamec.ones(3, 2, 6),) * 3,
        "embed_dim=8",
    ),
    (lambda: nn.Bilinear(2, 3, 4), lambda: (flamec.ones(2, 5),) * 2, "in1_features=2"),
    (
        lambda: nn.Linear(3, 2),
        lambda: flamec.ones(2, 3, dtype=flamec.float64),
        "x.to(flamec.float32) or model.to(flamec.float64)",
    ),
    (
        lambda: nn.Linear(3, 2),
        lambda: flamec.ones(2, 3, dtype=flamec.int64),
        "convert the input: x.to(flamec.float32)",
    ),
    (
        lambda: nn.Embedding(3, 2),
        lambda: flamec.tensor([1, 5]),
        "indices go from 0 to 2",
    ),
]


@pytest.mark.parametrize("case", range(len(FIXES)))
def test_the_likely_fix(case: int) -> None:
    make, inputs, expected = FIXES[case]
    given = inputs()
    with pytest.raises(Exception) as caught:
        make()(*(given if isinstance(given, tuple) else (given,)))
    notes = caught.value.__notes__
    assert any(expected in note for note in notes), notes


def test_no_fix_is_invented() -> None:
    class Odd(nn.Module):
        def forward(self, x: Any) -> Any:
            raise ValueError("own")

    with pytest.raises(ValueError, match="own") as caught:
        Odd()(flamec.ones(1))
    assert caught.value.__notes__ == ["in module Odd"]
    layer = nn.Linear(3, 2)
    layer.register_forward_hook(lambda m, a, r: r.reshape(7))
    with pytest.raises(RuntimeError) as failed:
        layer(flamec.ones(1, 3))
    assert failed.value.__notes__ == ["in module Linear"]


def test_operations_name_shapes_and_dimensions() -> None:
    a, b = flamec.ones(3, 4), flamec.ones(3, 5)
    for call, parts in [
        (lambda: a @ a, ("matmul", "[3, 4] and [3, 4]", "4 against 3", "y.mT")),
        (lambda: a + b, ("add", "[3, 4] and [3, 5]", "4 against 5 at dimension -1")),
        (lambda: flamec.cat([a, b]), ("concatenate", "[3, 5]", "dimension 1 is 5 against 4")),
        (lambda: a.reshape(5, 2), ("reshape", "[5, 2]", "[3, 4]")),
    ]:
        for way in (call, flamec.compile(call)):
            with pytest.raises(RuntimeError) as caught:
                way()
            for part in (*parts, __file__):
                assert part in str(caught.value)
