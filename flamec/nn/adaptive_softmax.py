"""Softmax over many classes whose frequencies differ much, as words of a vocabulary.

E. Grave, A. Joulin, M. Cisse, D. Grangier, H. Jegou, "Efficient softmax approximation for GPUs",
2017 (arXiv:1609.04309): the most frequent classes are outputs of one linear layer, the head; the
others lie in clusters, each with one more output of the head and a smaller layer of its own, which
is computed for the rows only whose target lies in the cluster.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from flamec.errors import OperationError, user_location
from flamec.functional.joining import cat
from flamec.ir.types import Device, DType
from flamec.nn import functional as F
from flamec.nn.containers import ModuleList, Sequential
from flamec.nn.layers import Linear
from flamec.nn.module import Module
from flamec.tensor import Tensor

__all__ = ["AdaptiveLogSoftmaxWithLoss"]


class _ASMoutput(NamedTuple):
    """``output``: the log-probability of each row's target; ``loss``: minus their mean."""

    output: Tensor
    loss: Tensor


class AdaptiveLogSoftmaxWithLoss(Module):
    """Log-probabilities of ``n_classes`` classes, sorted by frequency, the most frequent first.

    ``cutoffs``: the first class of each cluster; classes below the first one are the shortlist. The
    layers of cluster i (from 0) have ``in_features // div_value ** (i + 1)`` hidden features.
    ValueError for cutoffs that do not ascend from at least 1 to at most ``n_classes - 1``.
    """

    def __init__(
        self,
        in_features: int,
        n_classes: int,
        cutoffs: Sequence[int],
        div_value: float = 4.0,
        head_bias: bool = False,
        device: Device | str | None = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__()
        cutoffs = list(cutoffs)
        if not cutoffs:
            raise ValueError("cutoffs should be a sequence of length larger than 0")
        ascend = all(low < high for low, high in pairwise([0, *cutoffs, n_classes]))
        if not ascend or any(int(cutoff) != cutoff for cutoff in cutoffs):
            raise ValueError(
                "cutoffs should be a sequence of unique, positive integers sorted in an increasing "
                f"order, where each value is between 1 and n_classes-1, not {cutoffs}"
            )
        self.in_features = in_features
        self.n_classes = n_classes
        self.cutoffs = [*cutoffs, n_classes]
        self.div_value = div_value
        self.head_bias = head_bias
        self.shortlist_size = cutoffs[0]
        self.n_clusters = len(cutoffs)
        self.head_size = self.shortlist_size + self.n_clusters
        self.head = Linear(in_features, self.head_size, head_bias, device, dtype)
        self.tail = ModuleList()
        for i, (low, high) in enumerate(pairwise(self.cutoffs)):
            hidden = int(in_features // (div_value ** (i + 1)))
            self.tail.append(
                Sequential(
                    Linear(in_features, hidden, False, device, dtype),
                    Linear(hidden, high - low, False, device, dtype),
                )
            )

    def reset_parameters(self) -> None:
        """New values for all weights, by the formula of ``Linear``."""
        self.head.reset_parameters()
        for layers in self.tail:
            for layer in layers.children():
                layer.reset_parameters()

    def forward(self, input_: Tensor, target_: Tensor) -> _ASMoutput:
        """The log-probabilities of the targets, and minus their mean.

        input_: [N, in_features] or [in_features]; target_: [N] or [], integers. ``output`` has the
        shape of target_. RuntimeError for other shapes, and for targets that are no class.
        """
        if target_.dim() > 1:
            raise OperationError(
                "AdaptiveLogSoftmaxWithLoss: 0D or 1D target tensor expected, multi-target not "
                f"supported: {list(target_.shape)} (at {user_location()})"
            )
        if input_.dim() != target_.dim() + 1:
            raise OperationError(
                f"AdaptiveLogSoftmaxWithLoss: {target_.dim()}D target tensor expects "
                f"{target_.dim() + 1}D input tensors, but found inputs with size "
                f"{list(input_.shape)} (at {user_location()})"
            )
        if target_.dim() == 0:
            output, loss = self.forward(input_.unsqueeze(0), target_.unsqueeze(0))
            return _ASMoutput(output.squeeze(0), loss)
        if input_.shape[0] != target_.shape[0]:
            raise OperationError(
                "AdaptiveLogSoftmaxWithLoss: Input and target should have the same size in the "
                f"batch dimension, not {list(input_.shape)} and {list(target_.shape)} "
                f"(at {user_location()})"
            )
        if ((target_ < 0) | (target_ >= self.n_classes)).any():
            raise OperationError(
                "AdaptiveLogSoftmaxWithLoss: Target values should be in "
                f"[0, {self.n_classes - 1}], but values in range [{target_.min().item()}, "
                f"{target_.max().item()}] were found (at {user_location()})"
            )
        places = target_
        for i, low in enumerate(self.cutoffs[:-1]):
            places = places.masked_fill(target_ >= low, self.shortlist_size + i)
        log_probs = F.log_softmax(self.head(input_), dim=1)
        output = log_probs.gather(1, places.unsqueeze(1)).squeeze(1)
        for i, (low, high) in enumerate(pairwise(self.cutoffs)):
            rows = ((target_ >= low) & (target_ < high)).nonzero().squeeze(1)
            if rows.numel() == 0:
                continue
            within = F.log_softmax(self.tail[i](input_.index_select(0, rows)), dim=1)
            local = (target_.index_select(0, rows) - low).unsqueeze(1)
            output = output.index_add(0, rows, within.gather(1, local).squeeze(1))
        return _ASMoutput(output, -output.mean())

    def log_prob(self, input: Tensor) -> Tensor:
        """The log-probabilities of all classes: [N, n_classes], of an input [N, in_features]."""
        return self._log_prob(input, self.head(input))

    def _log_prob(self, input: Tensor, head: Tensor) -> Tensor:
        log_probs = F.log_softmax(head, dim=1)
        parts = [log_probs[:, : self.shortlist_size]]
        for i, layers in enumerate(self.tail):
            place = self.shortlist_size + i
            parts.append(F.log_softmax(layers(input), dim=1) + log_probs[:, place : place + 1])
        return cat(parts, dim=1)

    def predict(self, input: Tensor) -> Tensor:
        """The most probable class of each row: [N], of an input [N, in_features].

        It is ``log_prob(input).argmax(1)``; clusters are computed only for rows where the head
        prefers one of them to the shortlist.
        """
        head = self.head(input)
        output = head.argmax(1)
        rows = (output >= self.shortlist_size).nonzero().squeeze(1)
        if rows.numel() == 0:
            return output
        chosen = self._log_prob(input.index_select(0, rows), head.index_select(0, rows)).argmax(1)
        return output.index_copy(0, rows, chosen)
