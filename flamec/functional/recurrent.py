"""Recurrent cells and layers: RNN, LSTM and GRU, as scans over time.

A layer multiplies its whole input with the input weights in one product, and then scans over the
steps, which are left with the product of the state and an elementwise cell. Equations and the
order of gates are PyTorch's (``torch.nn.LSTM``: input, forget, cell, output; ``torch.nn.GRU``:
reset, update, new, after Cho et al., "Learning phrase representations using RNN
encoder-decoder", 2014, in the variant that applies the reset gate behind the product).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flamec.control_flow import scan
from flamec.functional.activation import relu
from flamec.functional.autocasting import LOWER, autocasts
from flamec.functional.dropout import dropout as drop
from flamec.functional.joining import cat, chunk, stack
from flamec.functional.linear import linear
from flamec.functional.primitives import ops
from flamec.functional.unary import sigmoid, tanh
from flamec.tensor import Tensor

State = tuple[Tensor, ...]
Step = Callable[[State, Tensor], State]
GATES = {"RNN_TANH": 1, "RNN_RELU": 1, "LSTM": 4, "GRU": 3}


@dataclass(frozen=True, eq=False)
class Weights:
    """Of one direction of a layer. ``input``: [gates * hidden, input]; ``hidden``: [gates * hidden,
    hidden or projection]; the biases [gates * hidden]; ``projection``: [projection, hidden]."""

    input: Tensor
    hidden: Tensor
    input_bias: Tensor | None = None
    hidden_bias: Tensor | None = None
    projection: Tensor | None = None


def projected_input(mode: str, x: Tensor, weights: Weights) -> Tensor:
    """What the input adds to the gates, with all of the biases that can be added at once."""
    bias = weights.input_bias
    if bias is not None and weights.hidden_bias is not None:
        extra = weights.hidden_bias
        if mode == "GRU":  # that of the new state is inside of the reset gate's product
            reset_update = extra[: 2 * (extra.shape[0] // 3)]
            extra = cat([reset_update, extra.new_zeros(extra.shape[0] // 3)])
        bias = bias + extra
    return linear(x, weights.input, bias)


def step_of(mode: str, weights: Weights) -> Step:
    """One step: ``state, projected input -> new state``."""
    if mode == "LSTM":
        return lambda state, x: _lstm_step(state, x, weights)
    if mode == "GRU":
        return lambda state, x: _gru_step(state, x, weights)
    activation = relu if mode == "RNN_RELU" else tanh
    return lambda state, x: (activation(x + linear(state[0], weights.hidden)),)


def _lstm_step(state: State, x: Tensor, weights: Weights) -> State:
    hidden, cell = state
    gates = x + linear(hidden, weights.hidden)
    i, f, g, o = chunk(gates, 4, -1)
    new = sigmoid(f) * cell + sigmoid(i) * tanh(g)
    hidden = sigmoid(o) * tanh(new)
    if weights.projection is not None:
        hidden = linear(hidden, weights.projection)
    return hidden, new


def _gru_step(state: State, x: Tensor, weights: Weights) -> State:
    (hidden,) = state
    product = linear(hidden, weights.hidden)
    reset_x, update_x, new_x = chunk(x, 3, -1)
    reset_h, update_h, new_h = chunk(product, 3, -1)
    if weights.hidden_bias is not None:
        new_h = new_h + chunk(weights.hidden_bias, 3)[2]
    reset, update = sigmoid(reset_x + reset_h), sigmoid(update_x + update_h)
    new = tanh(new_x + reset * new_h)
    return (new + update * (hidden - new),)


@autocasts(cpu=LOWER, cuda=LOWER)
def cell(mode: str, input: Tensor, state: Sequence[Tensor], *weights: Tensor | None) -> State:
    """One step from the input. input: [batch, input]; state: each [batch, hidden]; weights: input,
    hidden, and then the biases of both or None."""
    parts = Weights(*weights)  # type: ignore[arg-type]  # two are there
    return step_of(mode, parts)(tuple(state), projected_input(mode, input, parts))


def direction(
    mode: str, x: Tensor, state: State, weights: Weights, mask: Tensor | None, reverse: bool
) -> tuple[Tensor, State]:
    """One layer in one direction. x: [time, batch, input]; state: each [batch, size].

    ``mask``: [time, batch, 1], where there is an element; where there is none the state stays.
    Returns the hidden states of all steps, [time, batch, size], and the last state.
    """
    step = step_of(mode, weights)

    def body(state: State, element: tuple[Tensor, Tensor | None]) -> tuple[State, Tensor]:
        projected, present = element
        new = step(state, projected)
        if present is not None:
            new = tuple(ops.where(present, n, old) for n, old in zip(new, state, strict=True))
        return new, new[0]

    last, outputs = scan(body, state, (projected_input(mode, x, weights), mask), reverse=reverse)
    return outputs, last


@autocasts(cpu=LOWER, cuda=LOWER)
def layers(
    x: Tensor,
    state: Sequence[Tensor],
    weights: Sequence[Tensor | None],
    *,
    mode: str,
    directions: int,
    dropout: float,
    mask: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """All layers. x: [time, batch, input]; state: each [layers * directions, batch, size].

    ``weights``: the fields of ``Weights`` for each direction of each layer, one after the other.
    ``dropout``: probability with which what enters a layer but the first is zeroed. Returns the
    output, [time, batch, directions * size], and the last states, shaped as ``state``.
    """
    last: list[State] = []
    count = len(weights) // (5 * directions)
    for layer in range(count):
        outputs = []
        for side in range(directions):
            number = layer * directions + side
            own = Weights(*weights[5 * number : 5 * number + 5])  # type: ignore[arg-type]  # two are there
            first = tuple(s[number] for s in state)
            output, final = direction(mode, x, first, own, mask, side == 1)
            outputs.append(output)
            last.append(final)
        x = outputs[0] if directions == 1 else cat(outputs, -1)
        if dropout and layer < count - 1:
            x = drop(x, dropout, True)
    return (x, *(stack([final[i] for final in last]) for i in range(len(state))))
