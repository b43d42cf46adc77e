"""Recurrent cells, one step each: RNNCell, LSTMCell and GRUCell, with PyTorch's parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence

from flamec.errors import OperationError, user_location
from flamec.functional import recurrent
from flamec.ir.shape import equal
from flamec.ir.types import Device, DType
from flamec.nn import init
from flamec.nn.module import Module
from flamec.nn.parameter import Parameter, filled
from flamec.tensor import Tensor

__all__ = ["GRUCell", "LSTMCell", "RNNCell", "RNNCellBase"]


class RNNCellBase(Module):
    """What the cells share: ``weight_ih``, ``weight_hh``, ``bias_ih``, ``bias_hh`` of
    ``num_chunks`` gates."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool,
        num_chunks: int,
        device: Device | str | None = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        rows = num_chunks * hidden_size
        self.weight_ih = Parameter(filled((rows, input_size), 0.0, device, dtype))
        self.weight_hh = Parameter(filled((rows, hidden_size), 0.0, device, dtype))
        for name in ("bias_ih", "bias_hh"):
            if bias:
                setattr(self, name, Parameter(filled((rows,), 0.0, device, dtype)))
            else:
                self.register_parameter(name, None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """All uniform in ±1/sqrt(hidden_size)."""
        bound = 1.0 / math.sqrt(self.hidden_size) if self.hidden_size > 0 else 0
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        return text if self.bias else text + f", bias={self.bias}"

    def _step(self, mode: str, input: Tensor, hx: Sequence[Tensor] | None) -> tuple[Tensor, ...]:
        name, count = type(self).__name__, 2 if mode == "LSTM" else 1
        if input.ndim not in (1, 2):
            raise ValueError(f"{name}: Expected input to be 1D or 2D, got {input.ndim}D instead")
        for position, part in enumerate(hx or ()):
            if part.ndim not in (1, 2):
                what = f"hx[{position}]" if mode == "LSTM" else "hidden"
                raise ValueError(
                    f"{name}: Expected {what} to be 1D or 2D, got {part.ndim}D instead"
                )
        batched = input.ndim == 2
        x = input if batched else input.unsqueeze(0)
        if hx is None:
            zero = x.new_zeros(x.shape[0], self.hidden_size)
            state: list[Tensor] = [zero] * count
        else:
            state = [h if batched or h.ndim == 2 else h.unsqueeze(0) for h in hx]
        self._check(x, state)
        weights = (self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
        results = recurrent.cell(mode, x, tuple(state), *weights)
        return results if batched else tuple(r.squeeze(0) for r in results)

    def _check(self, x: Tensor, state: Sequence[Tensor]) -> None:
        where = f"(at {user_location()})"
        if not equal(x._type.shape[1], self.input_size):
            raise OperationError(
                f"input has inconsistent input_size: got {x.shape[1]} expected {self.input_size} "
                f"{where}"
            )
        for position, part in enumerate(state):
            if not equal(part._type.shape[0], x._type.shape[0]):
                raise OperationError(
                    f"Input batch size {x.shape[0]} doesn't match hidden{position} batch size "
                    f"{part.shape[0]} {where}"
                )
            if part.ndim != 2 or not equal(part._type.shape[1], self.hidden_size):
                raise OperationError(
                    f"hidden{position} has inconsistent hidden_size: got {part.shape[-1]}, "
                    f"expected {self.hidden_size} {where}"
                )


class RNNCell(RNNCellBase):
    """``h' = tanh(W_ih x + b_ih + W_hh h + b_hh)``, or relu."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Device | str | None = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 1, device, dtype)
        self.nonlinearity = nonlinearity

    def extra_repr(self) -> str:
        text = super().extra_repr()
        return text if self.nonlinearity == "tanh" else text + f", nonlinearity={self.nonlinearity}"

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """input: [batch, input_size] or [input_size]; hx and result: [batch, hidden_size] or
        [hidden_size]."""
        if self.nonlinearity not in ("tanh", "relu"):
            raise OperationError(f"Unknown nonlinearity: {self.nonlinearity}")
        mode = f"RNN_{self.nonlinearity.upper()}"
        return self._step(mode, input, None if hx is None else (hx,))[0]


class LSTMCell(RNNCellBase):
    """Long short-term memory, one step."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Device | str | None = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 4, device, dtype)

    def forward(
        self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """input: [batch, input_size] or [input_size]; hx and result: a pair (hidden state, cell
        state), each [batch, hidden_size] or [hidden_size]."""
        if hx is not None and (not isinstance(hx, (tuple, list)) or len(hx) != 2):
            raise TypeError(f"LSTMCell: hx must be a pair of tensors, not {type(hx).__name__}")
        hidden, cell = self._step("LSTM", input, hx)
        return hidden, cell


class GRUCell(RNNCellBase):
    """Gated recurrent unit, one step."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Device | str | None = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 3, device, dtype)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """As ``RNNCell``."""
        return self._step("GRU", input, None if hx is None else (hx,))[0]
