"""Recurrent layers over whole sequences: RNN, LSTM and GRU, with PyTorch's parameters.

The parameters of layer k are ``weight_ih_lk``, ``weight_hh_lk``, ``bias_ih_lk``, ``bias_hh_lk``
and, with a projection, ``weight_hr_lk``; those of the other direction end in ``_reverse``.
"""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Sequence
from typing import Any

from flamec.errors import OperationError, user_location
from flamec.functional import recurrent
from flamec.functional.creation import zeros
from flamec.functional.primitives import is_found_empty
from flamec.ir.shape import Dim, equal
from flamec.ir.types import Device, DType
from flamec.nn import init
from flamec.nn.module import Module
from flamec.nn.packed_sequence import PackedSequence, packed_batch, packed_layout
from flamec.nn.parameter import Parameter, filled
from flamec.state import thread
from flamec.tensor import Tensor

__all__ = ["GRU", "LSTM", "RNN", "RNNBase"]

_FIELDS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")


class RNNBase(Module):
    """What RNN, LSTM and GRU share. ``mode``: ``"RNN_TANH"``, ``"RNN_RELU"``, ``"LSTM"`` or
    ``"GRU"``.

    TypeError or ValueError for sizes, probabilities and projections that are not possible.
    """

    def __init__(
        self,
        mode: str,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Device | str | None = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__()
        _check_arguments(input_size, hidden_size, num_layers, dropout, proj_size)
        if mode not in recurrent.GATES:
            raise ValueError("Unrecognized RNN mode: " + mode)
        self.mode = mode
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        self.proj_size = proj_size
        self._all_weights: list[list[str]] = []
        size = self._output_size
        rows = recurrent.GATES[mode] * hidden_size
        for layer in range(num_layers):
            columns = input_size if layer == 0 else size * self._directions
            shapes: list[tuple[int, ...]] = [(rows, columns), (rows, size)]
            shapes += [(rows,), (rows,)] if bias else []
            fields = _FIELDS[:4] if bias else _FIELDS[:2]
            if proj_size:
                shapes.append((proj_size, hidden_size))
                fields = (*fields, _FIELDS[4])
            for suffix in ("", "_reverse")[: self._directions]:
                names = [f"{field}_l{layer}{suffix}" for field in fields]
                for name, shape in zip(names, shapes, strict=True):
                    setattr(self, name, Parameter(filled(shape, 0.0, device, dtype)))
                self._all_weights.append(names)
        self.reset_parameters()

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def _output_size(self) -> int:
        """The size of a hidden state."""
        return self.proj_size or self.hidden_size

    @property
    def all_weights(self) -> list[list[Parameter]]:
        """The parameters of each direction of each layer."""
        return [[getattr(self, name) for name in names] for names in self._all_weights]

    def flatten_parameters(self) -> None:
        """Nothing: weights lie as they are wherever a layer runs."""

    def reset_parameters(self) -> None:
        """All uniform in ±1/sqrt(hidden_size)."""
        bound = 1.0 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        defaults = {
            "proj_size": 0, "num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0,
            "bidirectional": False,
        }  # fmt: skip
        for name, value in defaults.items():
            if getattr(self, name) != value:
                text += f", {name}={getattr(self, name)}"
        return text

    # one call --------------------------------------------------------------------------
    def _weights(self) -> list[Tensor | None]:
        """The parameters in the order of ``recurrent.Weights``, None where there is none."""
        found: list[Tensor | None] = []
        for names in self._all_weights:
            suffix = names[0].removeprefix("weight_ih")
            found += [getattr(self, field + suffix, None) for field in _FIELDS]
        return found

    def _state_sizes(self) -> list[int]:
        """The last dimension of each part of the state."""
        return [self._output_size, self.hidden_size] if self.mode == "LSTM" else [self.hidden_size]

    def _run(
        self, x: Tensor, state: Sequence[Tensor], mask: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """x: [time, batch, input]."""
        output, *last = recurrent.layers(
            x,
            tuple(state),
            tuple(self._weights()),
            mode=self.mode,
            directions=self._directions,
            dropout=self.dropout if self.training else 0.0,
            mask=mask,
        )
        return output, tuple(last)

    def _forward(
        self, input: Tensor | PackedSequence, hx: Sequence[Tensor] | None
    ) -> tuple[Any, tuple[Tensor, ...]]:
        if isinstance(input, PackedSequence):
            return self._forward_packed(input, hx)
        name = self.mode.split("_")[0]
        if input.ndim not in (2, 3):
            kind = " tensor" if name == "RNN" else ""
            raise ValueError(
                f"{name}: Expected input to be 2D or 3D, got {input.ndim}D{kind} instead "
                f"(at {user_location()})"
            )
        self._check_rank(input, hx)
        self._check_input(input)
        batched = input.ndim == 3
        x = input if batched else input.unsqueeze(1)
        if batched and self.batch_first:
            x = x.transpose(0, 1)
        if is_found_empty(x.shape[0]):
            raise OperationError(
                f"Expected sequence length to be larger than 0 in RNN (at {user_location()})"
            )
        if hx is None:
            state: Sequence[Tensor] = self._zeros(x, x.shape[1])
        else:
            state = hx if batched else [h.unsqueeze(1) for h in hx]
        self._check_state(state, x.shape[1])
        output, last = self._run(x, state)
        if not batched:
            return output.squeeze(1), tuple(h.squeeze(1) for h in last)
        return output.transpose(0, 1) if self.batch_first else output, last

    def _forward_packed(
        self, packed: PackedSequence, hx: Sequence[Tensor] | None
    ) -> tuple[PackedSequence, tuple[Tensor, ...]]:
        """Packed sequences side by side, with a mask where the shorter ones have ended."""
        data, sizes, order, back = packed
        self._check_input(data)
        batch = packed_batch(self.mode, packed, hx)
        layout = packed_layout(packed, batch)
        state = self._zeros(data, batch) if hx is None else hx
        if hx is not None and order is not None:
            state = [h.index_select(1, order) for h in hx]
        self._check_state(state, batch)
        output, last = self._run(layout.padded(data), state, layout.mask.unsqueeze(-1))
        if back is not None:
            last = tuple(h.index_select(1, back) for h in last)
        return PackedSequence(layout.packed(output), sizes, order, back), last

    def _zeros(self, x: Tensor, batch: Dim) -> list[Tensor]:
        count = self.num_layers * self._directions
        type = x._type
        return [
            zeros(count, batch, size, dtype=type.dtype, device=type.device)
            for size in self._state_sizes()
        ]

    # checks ----------------------------------------------------------------------------
    def _check_rank(self, input: Tensor, hx: Sequence[Tensor] | None) -> None:
        if hx is None or all(h.ndim == input.ndim for h in hx):
            return
        kind = "unbatched 2-D" if input.ndim == 2 else "batched 3-D"
        if len(hx) == 1:
            what, got = "hx", f"{hx[0].ndim}-D tensor"
        else:
            what, got = "hx and cx", f"({', '.join(f'{h.ndim}-D' for h in hx)}) tensors"
        raise OperationError(
            f"For {kind} input, {what} should also be {input.ndim}-D but got {got} "
            f"(at {user_location()})"
        )

    def _check_input(self, input: Tensor) -> None:
        dtype = self.weight_ih_l0.dtype
        if input.dtype is not dtype and not thread.autocast.enabled:
            raise ValueError(
                f"RNN input dtype ({input.dtype!r}) does not match weight dtype ({dtype!r}). "
                f"Convert input: input.to({dtype!r}), or convert model: model.to({input.dtype!r})"
            )
        if not equal(input._type.shape[-1], self.input_size):
            raise OperationError(
                f"input.size(-1) must be equal to input_size. Expected {self.input_size}, got "
                f"{input.shape[-1]} (at {user_location()})"
            )

    def _check_state(self, state: Sequence[Tensor], batch: Dim) -> None:
        for position, (part, size) in enumerate(zip(state, self._state_sizes(), strict=True)):
            expected = (self.num_layers * self._directions, batch, size)
            have = part._type.shape
            if len(have) != 3 or not all(map(equal, have, expected)):
                what = f"hidden[{position}]" if self.mode == "LSTM" else "hidden"
                raise OperationError(
                    f"Expected {what} size {expected}, got {list(have)} (at {user_location()})"
                )


def _check_arguments(
    input_size: Any, hidden_size: Any, num_layers: Any, dropout: Any, proj_size: Any
) -> None:
    is_number = isinstance(dropout, numbers.Number) and not isinstance(dropout, bool)
    if not is_number or not 0 <= dropout <= 1:
        raise ValueError(
            "dropout should be a number in range [0, 1] representing the probability of an element "
            "being zeroed"
        )
    if dropout > 0 and num_layers == 1:
        warnings.warn(
            "dropout option adds dropout after all but last recurrent layer, so non-zero dropout "
            f"expects num_layers greater than 1, but got dropout={dropout} and "
            f"num_layers={num_layers}",
            stacklevel=4,
        )
    for name, value in (("input_size", input_size), ("hidden_size", hidden_size)):
        if not isinstance(value, int):
            raise TypeError(f"{name} should be of type int, got: {type(value).__name__}")
    for name, value in (
        ("input_size", input_size),
        ("hidden_size", hidden_size),
        ("num_layers", num_layers),
    ):
        if value <= 0:
            raise ValueError(f"{name} must be greater than zero")
    if proj_size < 0:
        raise ValueError("proj_size should be a positive integer or zero to disable projections")
    if proj_size >= hidden_size:
        raise ValueError("proj_size has to be smaller than hidden_size")


class _Plain(RNNBase):
    """A layer whose state is one tensor."""

    def forward(
        self, input: Tensor | PackedSequence, hx: Tensor | None = None
    ) -> tuple[Any, Tensor]:
        """input: [time, batch, input_size] (``batch_first``: batch before time), without the batch,
        or packed; hx: [layers * directions, batch, hidden_size]. Returns the hidden states of the
        last layer, [time, batch, directions * hidden_size] or packed, and the last ones of all.
        """
        output, (last,) = self._forward(input, None if hx is None else (hx,))
        return output, last


class RNN(_Plain):
    """``h = tanh(W_ih x + b_ih + W_hh h + b_hh)``, or relu, over a sequence (Elman, 1990)."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Device | str | None = None,
        dtype: DType | None = None,
        **kwargs: Any,
    ) -> None:
        _refuse_projection(kwargs)
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(
                f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'."
            )
        super().__init__(
            f"RNN_{nonlinearity.upper()}",
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            0,
            device,
            dtype,
        )
        self.nonlinearity = nonlinearity


class GRU(_Plain):
    """Gated recurrent units over a sequence (Cho et al., 2014)."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Device | str | None = None,
        dtype: DType | None = None,
        **kwargs: Any,
    ) -> None:
        _refuse_projection(kwargs)
        super().__init__(
            "GRU",
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            0,
            device,
            dtype,
        )


def _refuse_projection(kwargs: dict[str, Any]) -> None:
    if "proj_size" in kwargs:
        raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")
    if kwargs:
        raise TypeError(f"got an unexpected keyword argument {next(iter(kwargs))!r}")


class LSTM(RNNBase):
    """Long short-term memory over a sequence (Hochreiter and Schmidhuber, 1997), with a projection
    of the hidden state if ``proj_size`` is not 0 (Sak et al., 2014)."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Device | str | None = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__(
            "LSTM",
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            proj_size,
            device,
            dtype,
        )

    def forward(
        self, input: Tensor | PackedSequence, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Any, tuple[Tensor, Tensor]]:
        """As the other layers'; ``hx`` and the last state are pairs: hidden states, [layers *
        directions, batch, proj_size or hidden_size], and cell states, [..., hidden_size]."""
        if hx is not None and (not isinstance(hx, (tuple, list)) or len(hx) != 2):
            raise TypeError(f"LSTM: hx must be a pair of tensors, not {type(hx).__name__}")
        output, (hidden, cell) = self._forward(input, hx)
        return output, (hidden, cell)
