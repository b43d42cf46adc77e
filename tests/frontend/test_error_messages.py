"""An error names the module, the operation, the shapes, the dimension, the user's line and a fix,
eager and compiled alike."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable
from typing import Any

import pytest

import flamec
from flamec import nn
from flamec.errors import OperationError


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


TABLE = flamec.ones(10, 3)
INDEX_ERRORS: list[tuple[str, Callable[[flamec.Tensor], Any], str]] = [
    ("cross_entropy", lambda i: nn.functional.cross_entropy(TABLE[:2], i), "dimension 1 of size 3"),
    ("embedding", lambda i: nn.functional.embedding(i, TABLE), "dimension 0 of size 10"),
    ("gather", lambda i: TABLE.gather(0, i[:, None]), "dimension 0 of size 10"),
    ("index_select", lambda i: TABLE.index_select(1, i), "of size 3"),
    ("index_add", lambda i: TABLE.index_add(0, i, TABLE[:2]), "dimension 0 of size 10"),
]


@pytest.mark.parametrize(("name", "call", "where"), INDEX_ERRORS, ids=[n for n, *_ in INDEX_ERRORS])
def test_an_index_out_of_range(name: str, call: Callable[[flamec.Tensor], Any], where: str) -> None:
    """Eager and compiled errors name the function that was called, and the line."""
    line = f"{__file__}:{call.__code__.co_firstlineno}"
    too_large = flamec.tensor([0, 12])
    with pytest.raises(IndexError) as eager:
        call(too_large)
    for part in (f"{name}: index 12 is out of bounds", where, line):
        assert part in str(eager.value)
    with pytest.raises(IndexError, match=rf"{name}(\(\))?: index -2 is out of bounds"):
        call(flamec.tensor([1, -2]))
    with pytest.raises(IndexError) as compiled:
        flamec.compile(call)(too_large)
    assert isinstance(compiled.value, RuntimeError)
    assert str(compiled.value).split(" of size")[0] in str(eager.value)
    assert str(compiled.value).endswith(f"(at {line})")
    for backend in ("auto", "evaluate"):
        with pytest.raises(IndexError, match=f"{name}: index -2 is out of bounds"):
            flamec.compile(call, backend=backend)(flamec.tensor([1, -2]))


def test_the_module_of_an_index_in_a_program() -> None:
    """Also where the program was loaded, and another network's modules have other names."""

    class Tagger(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.add_module(name, nn.Embedding(10, 4))
            self.name = name

        def forward(self, x: flamec.Tensor) -> flamec.Tensor:
            return getattr(self, self.name)(x) * 2

    for name in ("words", "characters"):
        compiled = flamec.compile(Tagger(name))
        with pytest.raises(IndexError, match="index 10 is out of bounds") as caught:
            compiled(flamec.full((2, 3), 10))
        (note,) = caught.value.__notes__
        assert note.startswith("in module ") and name in note


def test_the_line_of_an_index_in_a_long_program() -> None:
    """Of many kernels, equal ones that share their text, and those of a loop."""

    def lookups(x: flamec.Tensor, places: flamec.Tensor) -> flamec.Tensor:
        for k in range(24):
            x = (x @ x.T)[:, :3].cumsum(0) + TABLE[places[k]]
        total = flamec.scan(lambda c, i: (c + TABLE[i].sum(), c), x.sum(), places[24])[0]
        return total + x[places[25]].sum()

    first = lookups.__code__.co_firstlineno
    compiled = flamec.compile(lookups)
    assert compiled(flamec.ones(4, 3), flamec.zeros(26, 4, dtype=flamec.int64)).shape == ()
    for number, line in ((0, first + 2), (23, first + 2), (24, first + 3), (25, first + 4)):
        places = flamec.zeros(26, 4, dtype=flamec.int64)
        places[number] = 10
        with pytest.raises(IndexError, match=f"index 10 is out of bounds.*{__file__}:{line}"):
            compiled(flamec.ones(4, 3), places)


HALF = flamec.tensor([0.5, 0.5])
OUTSIDE = flamec.tensor([0.5, -1.5])
PROBABILITIES = flamec.ones(3, 1, 2).log_softmax(2)


def ctc(steps: flamec.Tensor, length: flamec.Tensor) -> flamec.Tensor:
    return nn.functional.ctc_loss(PROBABILITIES, flamec.ones(1, 2).long(), steps, length)


ONE, NINE = flamec.tensor([1]), flamec.tensor([9])
VALUE_ERRORS: list[tuple[str, Callable[..., Any], tuple[Any, ...]]] = [
    ("between 0 and 1", nn.functional.binary_cross_entropy, (OUTSIDE, HALF)),
    ("var has negative", nn.functional.gaussian_nll_loss, (HALF, HALF, OUTSIDE)),
    ("must be non-negative", lambda i: nn.functional.one_hot(i, 3), (flamec.tensor([0, -1]),)),
    ("smaller than num_classes", lambda i: nn.functional.one_hot(i, 3), (flamec.tensor([3]),)),
    ("finite and not negative", lambda w: flamec.multinomial(w, 1), (OUTSIDE,)),
    ("a row have sum 0", lambda w: flamec.multinomial(w, 1), (flamec.zeros(2),)),
    ("probabilities in", flamec.bernoulli, (OUTSIDE,)),
    ("elements of std >= 0", lambda s: flamec.normal(0.0, s), (OUTSIDE,)),
    ("invalid Poisson rate", flamec.poisson, (OUTSIDE,)),
    ("prob must lie", flamec.binomial, (HALF, OUTSIDE)),
    ("count must not", flamec.binomial, (OUTSIDE, HALF)),
    ("q values must be", flamec.quantile, (HALF, OUTSIDE)),
    ("is not finite", flamec.histc, (flamec.tensor([1.0, float("nan")]),)),
    ("input_lengths to have value at most", ctc, (NINE, ONE)),
    ("a target_length is", ctc, (ONE, NINE)),
    ("parameter scale", lambda s: flamec.distributions.Normal(0.0, s).rsample(), (OUTSIDE,)),
    ("to be below high", lambda h: flamec.distributions.Uniform(0.0, h).sample(), (OUTSIDE,)),
    ("within the support", flamec.distributions.Bernoulli(HALF).log_prob, (OUTSIDE,)),
]


@pytest.mark.parametrize(("message", "call", "given"), VALUE_ERRORS, ids=lambda v: str(v)[:20])
def test_values_out_of_range(message: str, call: Any, given: tuple[Any, ...]) -> None:
    """A program looks at them, too; it names the operation and the line, not the values."""

    def used(*given: Any) -> Any:
        return call(*given)

    for way in (used, flamec.compile(used, backend="evaluate")):
        with pytest.raises(ValueError, match=message) as caught:
            way(*given)
    assert isinstance(caught.value, RuntimeError) and f"{__file__}:" in str(caught.value)


def test_values_out_of_range_in_c() -> None:
    """In a loop, with sizes that vary, with gradients; the first that is found is reported."""

    def losses(x: flamec.Tensor, places: flamec.Tensor) -> flamec.Tensor:
        total = flamec.scan(
            lambda c, y: (c + nn.functional.binary_cross_entropy(y, y * 0), c), x.sum(), x
        )[0]
        return total + nn.functional.one_hot(places, 2).sum()

    first = losses.__code__.co_firstlineno
    compiled = flamec.compile(losses)
    for rows in (2, 3, 4):
        x = flamec.full((rows, 21), 0.5, requires_grad=True)
        compiled(x, flamec.zeros(1).long()).backward()
        with pytest.raises(ValueError, match=f"between 0 and 1.*{__file__}:{first + 2}"):
            compiled(x.detach() + flamec.eye(rows, 21), flamec.zeros(1).long())
        with pytest.raises(ValueError, match=rf"smaller than.*{__file__}:{first + 4}\)$"):
            compiled(x, flamec.full((1,), 2))
    assert compiled.stats.traces <= 4


def test_the_gradient_of_what_is_no_leaf() -> None:
    x = flamec.ones(2, requires_grad=True)
    y = x * 2.0
    with pytest.warns(UserWarning, match=r"not a leaf.*retain_grad") as seen:
        assert y.grad is None
    assert seen[0].filename == __file__
    kept = x * 3.0
    kept.retain_grad()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kept.grad is x.grad is x.detach().grad is None


def test_a_value_that_stands_for_a_batch() -> None:
    for function in (lambda x: x.item(), lambda x: x if x > 0 else -x):
        with pytest.raises(flamec.errors.DataDependentError, match=r"of vmap.*flamec\.where"):
            flamec.func.vmap(function)(flamec.ones(2))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_sizes_are_named_as_they_are_where_they_vary() -> None:
    weight = flamec.ones(4, 3)
    compiled = flamec.compile(lambda x: x + weight, backend="evaluate")
    compiled(flamec.ones(4, 3))
    for rows in (5, 6):
        with pytest.raises(OperationError) as raised:
            compiled(flamec.ones(rows, 3))
        assert f"[{rows}, 3] and [4, 3]" in str(raised.value)
    compiled(flamec.ones(1, 3))


CLEAR: dict[str, tuple[Callable[[], Any], Callable[[], Any], str]] = {
    "rank of batch norm": (
        lambda: nn.BatchNorm2d(3),
        lambda: (flamec.ones(2, 3),),
        "expected 4D input (got 2D input, [2, 3])",
    ),
    "channels of instance norm": (
        lambda: nn.InstanceNorm1d(4, affine=True),
        lambda: (flamec.ones(2, 3, 5),),
        "num_features (4), but got: 3 of [2, 3, 5]",
    ),
    "rank of a recurrent layer": (
        lambda: nn.GRU(4, 3),
        lambda: (flamec.ones(2, 2, 2, 4),),
        "Expected input to be 2D or 3D, got 4D",
    ),
    "lengths of keys and values": (
        lambda: nn.MultiheadAttention(4, 2),
        lambda: (flamec.ones(2, 1, 4), flamec.ones(3, 1, 4), flamec.ones(2, 1, 4)),
        "key [3, 1, 4] and value [2, 1, 4] must have one length",
    ),
    "batch of a decoder's memory": (
        lambda: nn.TransformerDecoderLayer(4, 2, 8),
        lambda: (flamec.ones(2, 1, 4), flamec.ones(2, 3, 4)),
        "the batch size of the query [2, 1, 4]",
    ),
}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", CLEAR)
def test_what_a_layer_refuses_has_shapes_the_line_and_the_path(name: str, compiled: bool) -> None:
    make, inputs, expected = CLEAR[name]

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = make()

        def forward(self, *args: Any) -> Any:
            return self.inner(*args)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Identity(), Layer()])

        def forward(self, *args: Any) -> Any:
            return self.layers[1](*args)

    model = Model()
    with pytest.raises((RuntimeError, ValueError)) as caught:
        (flamec.compile(model) if compiled else model)(*inputs())
    text = "".join(traceback.format_exception_only(caught.value))
    line = Layer.forward.__code__.co_firstlineno + 1
    for part in (expected, f"(at {__file__}:{line})", "in module layers.1.inner"):
        assert part in text, (part, text)


def test_what_a_program_finds_in_a_layer_of_a_list_has_its_path() -> None:
    """The list is not called, so the path of its layers has its name; also within another list."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            parts = nn.ModuleList([nn.Identity(), nn.Embedding(3, 2)])
            self.blocks = nn.ModuleList([nn.Identity(), nn.ModuleDict({"parts": parts})])

        def forward(self, x: Any) -> Any:
            return self.blocks[1]["parts"][1](x)

    program = flamec.compile(nn.Sequential(nn.Identity(), Model()))
    with pytest.raises(IndexError) as caught:
        program(flamec.tensor([3]))
    assert caught.value.__notes__ == ["in module Sequential.1.blocks.1.parts.1"]
