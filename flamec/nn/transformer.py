"""The transformer's encoder and decoder as modules (Vaswani et al. 2017, section 3.1).

In: sequences [L, N, E], [N, L, E] with batch_first, or [L, E], and masks in which True
hides and numbers are added to the scores. A layer applies each of its sublayers as
``norm(x + dropout(sublayer(x)))``, or with norm_first as ``x + dropout(sublayer(norm(x)))``.
Arguments ``is_causal`` say that a mask given is causal; the mask decides.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

from flamec.errors import OperationError, user_location
from flamec.functional.creation import full
from flamec.functional.diagonals import triu
from flamec.ir.shape import equal, format_shape
from flamec.ir.types import Device, DType
from flamec.nn import functional as F
from flamec.nn import init
from flamec.nn.containers import ModuleList
from flamec.nn.layers import Dropout, LayerNorm, Linear
from flamec.nn.module import Module
from flamec.nn.multihead_attention import MultiheadAttention
from flamec.tensor import Tensor

__all__ = [
    "Transformer",
    "TransformerDecoder",
    "TransformerDecoderLayer",
    "TransformerEncoder",
    "TransformerEncoderLayer",
]

Activation = Callable[[Tensor], Tensor]
DeviceLike = Device | str | None


def activation_function(activation: str | Activation) -> Activation:
    """The function that a layer's argument ``activation`` names, or is."""
    if not isinstance(activation, str):
        return activation
    if activation == "relu":
        return F.relu
    if activation == "gelu":
        return F.gelu
    raise RuntimeError(f"activation should be relu/gelu, not {activation}")


def _copies(layer: Module, count: int) -> ModuleList:
    return ModuleList([copy.deepcopy(layer) for _ in range(count)])


class _Layer(Module):
    """What layers of encoder and decoder share: attentions, then a feed-forward network."""

    def __init__(
        self,
        attentions: tuple[str, ...],
        d_model: int,
        nhead: int,
        dim_feedforward: int,
        dropout: float,
        activation: str | Activation,
        layer_norm_eps: float,
        batch_first: bool,
        norm_first: bool,
        bias: bool,
        device: DeviceLike,
        dtype: DType | None,
    ) -> None:
        super().__init__()
        made: dict[str, Any] = {"bias": bias, "device": device, "dtype": dtype}
        for name in attentions:
            attention = MultiheadAttention(d_model, nhead, dropout, batch_first=batch_first, **made)
            self.add_module(name, attention)
        self.linear1 = Linear(d_model, dim_feedforward, **made)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, **made)
        self.norm_first = norm_first
        sublayers = range(1, len(attentions) + 2)
        for i in sublayers:
            self.add_module(f"norm{i}", LayerNorm(d_model, layer_norm_eps, **made))
        for i in sublayers:
            self.add_module(f"dropout{i}", Dropout(dropout))
        self.activation = activation_function(activation)

    def _added(self, number: int, x: Tensor, sublayer: Activation) -> Tensor:
        """``x`` and, added to it, what the sublayer makes of it."""
        norm, dropout = getattr(self, f"norm{number}"), getattr(self, f"dropout{number}")
        if self.norm_first:
            return x + dropout(sublayer(norm(x)))
        return norm(x + dropout(sublayer(x)))

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.linear2(self.dropout(self.activation(self.linear1(x))))


def _attended(
    attention: Module,
    query: Tensor,
    memory: Tensor,
    mask: Tensor | None,
    padding: Tensor | None,
    is_causal: bool,
) -> Tensor:
    return attention(
        query,
        memory,
        memory,
        attn_mask=mask,
        key_padding_mask=padding,
        is_causal=is_causal,
        need_weights=False,
    )[0]


class TransformerEncoderLayer(_Layer):
    """Self-attention and a feed-forward network, each with residual, dropout and layer norm."""

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Activation = F.relu,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: DeviceLike = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__(
            ("self_attn",),
            d_model,
            nhead,
            dim_feedforward,
            dropout,
            activation,
            layer_norm_eps,
            batch_first,
            norm_first,
            bias,
            device,
            dtype,
        )

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """The layer's result, of the shape of ``src``."""

        def attend(x: Tensor) -> Tensor:
            return _attended(self.self_attn, x, x, src_mask, src_key_padding_mask, is_causal)

        return self._added(2, self._added(1, src, attend), self._feed_forward)


class TransformerEncoder(Module):
    """Copies of one encoder layer, one after the other, and a last normalisation.

    ``enable_nested_tensor`` and ``mask_check`` are accepted for PyTorch's sake.
    """

    def __init__(
        self,
        encoder_layer: TransformerEncoderLayer,
        num_layers: int,
        norm: Module | None = None,
        enable_nested_tensor: bool = True,
        mask_check: bool = True,
    ) -> None:
        super().__init__()
        self.layers = _copies(encoder_layer, num_layers)
        self.num_layers = num_layers
        self.norm = norm
        self.enable_nested_tensor = enable_nested_tensor
        self.mask_check = mask_check

    def forward(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:
        """The encoded sequence, of the shape of ``src``."""
        output = src
        for layer in self.layers:
            output = layer(
                output,
                src_mask=mask,
                src_key_padding_mask=src_key_padding_mask,
                is_causal=bool(is_causal),
            )
        return output if self.norm is None else self.norm(output)


class TransformerDecoderLayer(_Layer):
    """Self-attention, attention to the encoder's result and a feed-forward network.

    Each with residual, dropout and layer norm.
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Activation = F.relu,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: DeviceLike = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__(
            ("self_attn", "multihead_attn"),
            d_model,
            nhead,
            dim_feedforward,
            dropout,
            activation,
            layer_norm_eps,
            batch_first,
            norm_first,
            bias,
            device,
            dtype,
        )

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """The layer's result, of the shape of ``tgt``; ``memory`` is the encoder's."""

        def attend(x: Tensor) -> Tensor:
            return _attended(self.self_attn, x, x, tgt_mask, tgt_key_padding_mask, tgt_is_causal)

        def recall(x: Tensor) -> Tensor:
            masks = memory_mask, memory_key_padding_mask
            return _attended(self.multihead_attn, x, memory, *masks, memory_is_causal)

        x = self._added(2, self._added(1, tgt, attend), recall)
        return self._added(3, x, self._feed_forward)


class TransformerDecoder(Module):
    """Copies of one decoder layer, one after the other, and a last normalisation."""

    def __init__(
        self,
        decoder_layer: TransformerDecoderLayer,
        num_layers: int,
        norm: Module | None = None,
    ) -> None:
        super().__init__()
        self.layers = _copies(decoder_layer, num_layers)
        self.num_layers = num_layers
        self.norm = norm

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """The decoded sequence, of the shape of ``tgt``."""
        output = tgt
        for layer in self.layers:
            output = layer(
                output,
                memory,
                tgt_mask=tgt_mask,
                memory_mask=memory_mask,
                tgt_key_padding_mask=tgt_key_padding_mask,
                memory_key_padding_mask=memory_key_padding_mask,
                tgt_is_causal=bool(tgt_is_causal),
                memory_is_causal=memory_is_causal,
            )
        return output if self.norm is None else self.norm(output)


class Transformer(Module):
    """An encoder of ``src`` and a decoder that continues ``tgt`` with its result in view."""

    def __init__(
        self,
        d_model: int = 512,
        nhead: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Activation = F.relu,
        custom_encoder: Any | None = None,
        custom_decoder: Any | None = None,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: DeviceLike = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__()
        made: dict[str, Any] = {"bias": bias, "device": device, "dtype": dtype}
        shape = (d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps)
        order = (batch_first, norm_first)
        if custom_encoder is None:
            encoder_norm = LayerNorm(d_model, layer_norm_eps, **made)
            encoder_layer = TransformerEncoderLayer(*shape, *order, **made)
            self.encoder = TransformerEncoder(encoder_layer, num_encoder_layers, encoder_norm)
        else:
            self.encoder = custom_encoder
        if custom_decoder is None:
            decoder_norm = LayerNorm(d_model, layer_norm_eps, **made)
            decoder_layer = TransformerDecoderLayer(*shape, *order, **made)
            self.decoder = TransformerDecoder(decoder_layer, num_decoder_layers, decoder_norm)
        else:
            self.decoder = custom_decoder
        self._reset_parameters()
        self.d_model = d_model
        self.nhead = nhead
        self.batch_first = batch_first

    def _reset_parameters(self) -> None:
        for parameter in self.parameters():
            if parameter.ndim > 1:
                init.xavier_uniform_(parameter)

    def forward(
        self,
        src: Tensor,
        tgt: Tensor,
        src_mask: Tensor | None = None,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        src_is_causal: bool | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """The decoded sequence, of the shape of ``tgt``.

        src: [S, N, E]; tgt: [T, N, E] (or batch first, or without batch). Masks: src [S, S],
        tgt [T, T], memory [T, S], each also with N * heads in front; key padding masks [N, S],
        [N, T], [N, S]. RuntimeError where the sizes of ``src`` and ``tgt`` do not fit.
        """
        self._check_sizes(src, tgt)
        memory = self.encoder(
            src, mask=src_mask, src_key_padding_mask=src_key_padding_mask, is_causal=src_is_causal
        )
        return self.decoder(
            tgt,
            memory,
            tgt_mask=tgt_mask,
            memory_mask=memory_mask,
            tgt_key_padding_mask=tgt_key_padding_mask,
            memory_key_padding_mask=memory_key_padding_mask,
            tgt_is_causal=tgt_is_causal,
            memory_is_causal=memory_is_causal,
        )

    def _check_sizes(self, src: Tensor, tgt: Tensor) -> None:
        have, want = src._type.shape, tgt._type.shape
        batch = 0 if self.batch_first else 1
        problem = None
        if len(have) != len(want) or len(have) not in (2, 3):
            problem = "src and tgt must both have 3 dimensions, or 2 without batch"
        elif len(have) == 3 and not equal(have[batch], want[batch]):
            problem = "the batch number of src and tgt must be equal"
        elif not equal(have[-1], self.d_model) or not equal(want[-1], self.d_model):
            problem = f"the feature number of src and tgt must be equal to d_model {self.d_model}"
        if problem is not None:
            raise OperationError(
                f"Transformer: {problem}; got src {format_shape(have)} and tgt "
                f"{format_shape(want)} (at {user_location()})"
            )

    @staticmethod
    def generate_square_subsequent_mask(
        sz: int, device: DeviceLike = None, dtype: DType | None = None
    ) -> Tensor:
        """[sz, sz]: -inf above the diagonal, where later places are hidden, and 0 elsewhere."""
        return triu(full((sz, sz), -math.inf, device=device, dtype=dtype), 1)
