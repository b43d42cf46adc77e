"""Recurrent layers and packed sequences against PyTorch: results, gradients, errors, texts."""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
import pytest
from torch_comparison import check, torch

import flamec
from flamec import nn

RNG = np.random.default_rng(5)
INPUT, HIDDEN, BATCH, TIME = 5, 7, 3, 4
LAYERS: list[tuple[str, dict[str, Any]]] = [
    ("RNN", {}),
    ("RNN", {"nonlinearity": "relu", "num_layers": 2, "bias": False}),
    ("RNN", {"bidirectional": True, "batch_first": True}),
    ("LSTM", {}),
    ("LSTM", {"num_layers": 2, "bidirectional": True, "batch_first": True}),
    ("LSTM", {"bias": False}),
    ("LSTM", {"proj_size": 3, "num_layers": 2, "bidirectional": True}),
    ("GRU", {}),
    ("GRU", {"num_layers": 2, "bidirectional": True}),
    ("GRU", {"bias": False, "batch_first": True}),
]


def pair(kind: str, *sizes: int, **options: Any) -> tuple[Any, Any]:
    """flamec's module and PyTorch's with the same weights, float64."""
    theirs = getattr(torch.nn, kind)(*sizes, **options).double()
    ours = getattr(nn, kind)(*sizes, **options).double()
    state = {k: flamec.from_numpy(v.numpy().copy()) for k, v in theirs.state_dict().items()}
    assert list(state) == list(ours.state_dict())
    assert str(ours.load_state_dict(state)) == "<All keys matched successfully>"
    return ours, theirs


def states(kind: str, options: dict[str, Any], *batch: int) -> list[np.ndarray]:
    count = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    sizes = [options.get("proj_size") or HIDDEN] + [HIDDEN] * (kind == "LSTM")
    return [RNG.standard_normal((count, *batch, size)) for size in sizes]


def outcome(package: Any, module: Any, call: Any, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Results, and gradients of a nonlinear function of them by inputs and parameters."""
    inputs = [package.from_numpy(a.copy()).requires_grad_() for a in arrays]
    results = call(*inputs)
    total = sum((r * r.sin()).sum() for r in results)
    module.zero_grad()
    total.backward()
    gradients = [t.grad for t in (*inputs, *module.parameters())]
    return [v.detach().numpy() for v in (*results, *gradients)]


def layer_call(module: Any, kind: str) -> Any:
    def call(x: Any, *state: Any) -> tuple[Any, ...]:
        hx = None if not state else state if kind == "LSTM" else state[0]
        output, last = module(x, hx)
        return (output, *last) if kind == "LSTM" else (output, last)

    return call


def compare(found: list[np.ndarray], wanted: list[np.ndarray]) -> None:
    assert len(found) == len(wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("kind", "options"), LAYERS, ids=str)
@pytest.mark.parametrize("how", ["eager", "compiled", "without state"])
def test_layers(kind: str, options: dict[str, Any], how: str) -> None:
    ours, theirs = pair(kind, INPUT, HIDDEN, **options)
    leading = (BATCH, TIME) if options.get("batch_first") else (TIME, BATCH)
    arrays = [RNG.standard_normal((*leading, INPUT))]
    if how != "without state":
        arrays += states(kind, options, BATCH)
    call = layer_call(ours, kind)
    found = outcome(flamec, ours, flamec.compile(call) if how == "compiled" else call, arrays)
    compare(found, outcome(torch, theirs, layer_call(theirs, kind), arrays))


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_without_batch(kind: str) -> None:
    ours, theirs = pair(kind, INPUT, HIDDEN, num_layers=2)
    arrays = [RNG.standard_normal((1, INPUT)), *states(kind, {"num_layers": 2})]
    found = outcome(flamec, ours, layer_call(ours, kind), arrays)
    compare(found, outcome(torch, theirs, layer_call(theirs, kind), arrays))


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    ("lengths", "sorts"), [((4, 3, 1), False), ((2, 4, 1), True), ((1, 1, 1), False)]
)
def test_packed(kind: str, compiled: bool, lengths: tuple[int, ...], sorts: bool) -> None:
    """Shorter sequences end where they end, in both directions, in every order."""
    options = {"bidirectional": True}
    ours, theirs = pair(kind, INPUT, HIDDEN, **options)
    arrays = [RNG.standard_normal((TIME, BATCH, INPUT)), *states(kind, options, BATCH)]
    results = []
    for package, module in ((flamec, ours), (torch, theirs)):
        rnn = package.nn.utils.rnn
        call = layer_call(module, kind)
        if compiled and package is flamec:
            call = flamec.compile(call)

        def padded(x: Any, *state: Any, rnn: Any = rnn, call: Any = call) -> tuple[Any, ...]:
            packed = rnn.pack_padded_sequence(x, list(lengths), enforce_sorted=not sorts)
            output, *last = call(packed, *state)
            back, sizes = rnn.pad_packed_sequence(output, total_length=5, padding_value=-1.0)
            assert sizes.tolist() == list(lengths)
            return (back, output.data, *last)

        results.append(outcome(package, module, padded, arrays))
    compare(*results)


@pytest.mark.parametrize("sorts", [False, True])
def test_one_program_packs_sequences_of_all_lengths(sorts: bool) -> None:
    """The loss and gradients of a compiled function that packs what it is given."""
    ours, theirs = pair("LSTM", INPUT, HIDDEN, batch_first=True)

    def gradients(package: Any, module: Any) -> Any:
        rnn = package.nn.utils.rnn

        def step(x: Any, lengths: Any) -> Any:
            packed = rnn.pack_padded_sequence(x, lengths, True, enforce_sorted=not sorts)
            output, (last, _) = module(packed, None if sorts else state)
            padded, sizes = rnn.pad_packed_sequence(output, batch_first=True)
            module.zero_grad()
            (padded.square().sum() + last.sum()).backward()
            return padded, sizes, packed.data

        state = (package.zeros(1, BATCH, HIDDEN).double(),) * 2
        return step

    compiled = flamec.compile(gradients(flamec, ours))
    plain = gradients(torch, theirs)
    for lengths in ((4, 3, 1), (2, 2, 1), (3, 1, 1), (5, 4, 4), (1, 1, 1)):
        given = np.array(lengths[::-1] if sorts else lengths)
        x = RNG.standard_normal((BATCH, 5, INPUT))
        found = compiled(flamec.from_numpy(x), flamec.from_numpy(given))
        wanted = plain(torch.from_numpy(x), torch.from_numpy(given))
        found += tuple(p.grad for p in ours.parameters())
        wanted += tuple(p.grad for p in theirs.parameters())
        compare([f.detach().numpy() for f in found], [w.detach().numpy() for w in wanted])
    assert compiled.stats.traces <= 3
    for wrong in ((1, 0, 1), (9, 1, 1), (1, 1), *(() if sorts else ((1, 2, 1),))):
        with pytest.raises(RuntimeError) as eager:
            gradients(flamec, ours)(flamec.from_numpy(x), flamec.tensor(wrong))
        with pytest.raises(eager.type, match=re.escape(str(eager.value)[:20])):
            compiled(flamec.from_numpy(x), flamec.tensor(wrong))


def test_packing_agrees() -> None:
    sequences = [RNG.standard_normal((n, 2)) for n in (3, 1, 4)]
    found = {}
    for package in (flamec, torch):
        rnn = package.nn.utils.rnn
        tensors = [package.from_numpy(s.copy()) for s in sequences]
        packed = rnn.pack_sequence(tensors, enforce_sorted=False)
        padded, lengths = rnn.pad_packed_sequence(packed, batch_first=True, padding_value=9.0)
        again = rnn.pack_padded_sequence(padded, lengths, batch_first=True, enforce_sorted=False)
        left = rnn.pad_sequence(tensors, batch_first=True, padding_side="left")
        parts = [*packed, padded, lengths, *again, left, rnn.pad_sequence(tensors)]
        parts += rnn.unpad_sequence(padded, lengths, batch_first=True)
        parts += rnn.unpack_sequence(packed)
        found[package] = [(p.numpy(), p.numpy().dtype) for p in parts]
    for (ours, mine), (theirs, dtype) in zip(found[flamec], found[torch], strict=True):
        assert mine == dtype
        np.testing.assert_array_equal(ours, theirs)


def test_packed_sequence_moves_and_converts() -> None:
    packed = nn.utils.rnn.pack_sequence([flamec.ones(2, 3), flamec.ones(1, 3)])
    assert not packed.is_cuda and packed.to("cpu") is packed
    assert packed.double().data.dtype is flamec.float64
    assert packed.long().batch_sizes is packed.batch_sizes


@pytest.mark.parametrize("kind", ["RNNCell", "LSTMCell", "GRUCell"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch", [(BATCH,), ()])
def test_cells(kind: str, bias: bool, batch: tuple[int, ...]) -> None:
    ours, theirs = pair(kind, INPUT, HIDDEN, bias=bias)
    count = 2 if kind == "LSTMCell" else 1
    arrays = [RNG.standard_normal((*batch, size)) for size in (INPUT, *(HIDDEN,) * count)]

    def call(module: Any) -> Any:
        def step(x: Any, *state: Any) -> tuple[Any, ...]:
            first = module(x)
            found = module(x, state if count == 2 else state[0])
            return (*first, *found) if count == 2 else (first, found)

        return step

    compare(outcome(flamec, ours, call(ours), arrays), outcome(torch, theirs, call(theirs), arrays))


X = (TIME, BATCH, INPUT)
ERRORS: list[tuple[str, Any]] = [
    ("input size", lambda p: p.nn.LSTM(INPUT, 2)(p.zeros(4, 2, 9))),
    ("rank", lambda p: p.nn.LSTM(INPUT, 2)(p.zeros(3))),
    ("rank of RNN", lambda p: p.nn.RNN(INPUT, 2)(p.zeros(1, 2, 3, 4))),
    ("state of GRU", lambda p: p.nn.GRU(INPUT, 2)(p.zeros(X), p.zeros(1, 9, 2))),
    ("hidden", lambda p: p.nn.LSTM(INPUT, 2)(p.zeros(X), (p.zeros(1, 9, 2), p.zeros(1, 3, 2)))),
    ("cell", lambda p: p.nn.LSTM(INPUT, 2)(p.zeros(X), (p.zeros(1, 3, 2), p.zeros(1, 3, 9)))),
    ("batched", lambda p: p.nn.RNN(INPUT, 2)(p.zeros(X), p.zeros(1, 2))),
    ("pair", lambda p: p.nn.LSTM(INPUT, 2)(p.zeros(4, 5), (p.zeros(1, 3, 2), p.zeros(1, 3, 2)))),
    ("dtype", lambda p: p.nn.GRU(INPUT, 2)(p.zeros(X, dtype=p.float64))),
    ("no steps", lambda p: p.nn.GRU(INPUT, 2)(p.zeros(0, 2, INPUT))),
    ("dropout", lambda p: p.nn.LSTM(1, 2, dropout=2)),
    ("dropout flag", lambda p: p.nn.LSTM(1, 2, dropout=True)),
    ("no hidden size", lambda p: p.nn.LSTM(1, 0)),
    ("no input", lambda p: p.nn.LSTM(0, 1)),
    ("no layers", lambda p: p.nn.LSTM(1, 2, num_layers=0)),
    ("hidden type", lambda p: p.nn.LSTM(1, 2.0)),
    ("projection of RNN", lambda p: p.nn.RNN(1, 2, proj_size=1)),
    ("projection", lambda p: p.nn.LSTM(1, 2, proj_size=2)),
    ("negative projection", lambda p: p.nn.LSTM(1, 2, proj_size=-1)),
    ("nonlinearity", lambda p: p.nn.RNN(1, 2, nonlinearity="sin")),
    ("cell rank", lambda p: p.nn.LSTMCell(1, 2)(p.zeros(1, 2, 1))),
    ("cell input", lambda p: p.nn.GRUCell(1, 2)(p.zeros(3, 2))),
    ("cell batch", lambda p: p.nn.RNNCell(1, 2)(p.zeros(3, 1), p.zeros(4, 2))),
    ("cell state", lambda p: p.nn.LSTMCell(1, 2)(p.zeros(3, 1), (p.zeros(3, 2), p.zeros(3, 4)))),
    ("cell state rank", lambda p: p.nn.GRUCell(1, 2)(p.zeros(3, 1), p.zeros(1, 3, 2))),
    ("unsorted", lambda p: p.nn.utils.rnn.pack_padded_sequence(p.zeros(X), [1, 2, 3])),
    ("lengths", lambda p: p.nn.utils.rnn.pack_padded_sequence(p.zeros(X), [1, 1])),
    ("zero", lambda p: p.nn.utils.rnn.pack_padded_sequence(p.zeros(X), [1, 1, 0])),
    ("empty", lambda p: p.nn.utils.rnn.pack_padded_sequence(p.zeros(0, 2), [0, 0])),
    ("nothing", lambda p: p.nn.utils.rnn.pad_sequence([])),
    ("side", lambda p: p.nn.utils.rnn.pad_sequence([p.ones(2)], padding_side="up")),
    (
        "total",
        lambda p: p.nn.utils.rnn.pad_packed_sequence(
            p.nn.utils.rnn.pack_sequence([p.ones(3)]), total_length=2
        ),
    ),
]


@pytest.mark.parametrize(("name", "call"), ERRORS, ids=[name for name, _ in ERRORS])
def test_errors(name: str, call: Any) -> None:
    with pytest.raises(Exception) as theirs:
        call(torch)
    with pytest.raises(theirs.type) as ours:
        call(flamec)
    wanted = str(theirs.value).replace("torch.", "flamec.").split(". You can pass")[0]
    assert wanted in str(ours.value)


def test_texts_and_warnings() -> None:
    for make in (
        lambda n: n.LSTM(3, 5, 2, batch_first=True, dropout=0.1),
        lambda n: n.GRU(3, 5, bias=False, bidirectional=True),
        lambda n: n.RNN(3, 5, 2, "relu"),
        lambda n: n.LSTM(3, 5, proj_size=2),
        lambda n: n.RNNCell(3, 5, bias=False, nonlinearity="relu"),
    ):
        assert repr(make(nn)) == repr(make(torch.nn))
    with pytest.warns(UserWarning, match="dropout option adds dropout after all but last"):
        nn.GRU(3, 5, dropout=0.5)


def test_dropout_between_layers_only_in_training() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer = nn.GRU(4, 6, num_layers=2, dropout=1.0)
    x = flamec.randn(3, 2, 4)
    wanted, _ = nn.GRU(6, 6)(flamec.zeros(3, 2, 6))
    layer_1 = {k: v for k, v in layer.state_dict().items() if k.endswith("l1")}
    single = nn.GRU(6, 6)
    single.load_state_dict({k.replace("l1", "l0"): v for k, v in layer_1.items()})
    wanted, _ = single(flamec.zeros(3, 2, 6))
    check(layer(x)[0], torch.from_numpy(wanted.detach().numpy()), 1e-6)
    assert not np.allclose(layer.eval()(x)[0].detach().numpy(), wanted.detach().numpy())
