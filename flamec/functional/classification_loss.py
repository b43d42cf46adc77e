"""Classification losses: cross_entropy and nll_loss over class indices or probabilities.

The log-probability of each row's class is read with one ``index`` by (row, class)
pairs, which the compiler turns into one read a row. Rows with ``ignore_index`` count
for nothing; other indices outside [0, C) raise IndexError.
"""

from __future__ import annotations

from flamec.errors import OperationError, OperationTypeError, user_location
from flamec.functional.autocasting import FLOAT32, autocasts
from flamec.functional.linear import table_index
from flamec.functional.loss_reduction import chosen_reduction
from flamec.functional.primitives import narrowed, ops, require, require_floating, sum_all, widened
from flamec.functional.promotion import require_tensor
from flamec.functional.softmax import log_softmax_over
from flamec.fusing import fused
from flamec.ir.shape import Dim, equal, format_shape, product
from flamec.ir.types import DType, int64
from flamec.tensor import Tensor

__all__ = ["cross_entropy", "nll_loss"]


def _class_axis(name: str, input: Tensor) -> int:
    """Dimension 1 of [N, C, …], dimension 0 of [C]."""
    require(len(input._type.shape) > 0, f"{name}: expected an input of at least 1 dimension")
    return 0 if len(input._type.shape) == 1 else 1


def _check(name: str, input: Tensor, target: Tensor, weight: Tensor | None, axis: int) -> None:
    """The target is int64 of the input's shape without the class dimension."""
    shape, have = input._type.shape, target._type.shape
    if target._type.dtype is not int64:
        raise OperationTypeError(
            f"{name}: expected class indices of dtype int64, got {target._type.dtype.name} "
            f"(at {user_location()})"
        )
    want = (*shape[:axis], *shape[axis + 1 :])
    if len(have) == len(want) and all(map(equal, have, want)):
        _check_weight(name, input, weight, axis)
        return
    if len(shape) == 2 and len(have) == 1:
        detail = f"expected input batch_size ({shape[0]}) to match target batch_size ({have[0]})"
    else:
        detail = (
            f"for an input of size {format_shape(shape)} expected a target of size "
            f"{format_shape(want)}, got {format_shape(have)}"
        )
    raise OperationError(f"{name}: {detail} (at {user_location()})")


def _check_weight(name: str, input: Tensor, weight: Tensor | None, axis: int) -> None:
    classes = input._type.shape[axis]
    if weight is not None and weight._type.shape != (classes,):
        raise OperationError(
            f"{name}: weight should be defined for all {classes} classes or none, got "
            f"{format_shape(weight._type.shape)} (at {user_location()})"
        )


def _rows(x: Tensor, axis: int) -> Tensor:
    """[N, C, d1, …] as [N d1 …, C]."""
    shape = x._type.shape
    if len(shape) == 1:
        return ops.reshape(x, shape=(1, shape[0]))
    if len(shape) > 2:
        x = ops.permute(x, axes=(0, *range(2, len(shape)), axis))
        x = ops.reshape(x, shape=(product((shape[0], *shape[2:])), shape[1]))
    return x


class _IndexedLoss:
    """What the losses over class indices share: flattened rows, classes and weights."""

    def __init__(
        self,
        name: str,
        log_probabilities: Tensor,
        target: Tensor,
        weight: Tensor | None,
        ignore_index: int,
        axis: int,
    ) -> None:
        self.rows = _rows(log_probabilities, axis)
        self.shape = target._type.shape
        count, classes = self.rows._type.shape
        places = ops.reshape(target, shape=(count,))
        self.counts = ops.ne(places, ignore_index)
        self.places = table_index(name, ops.where(self.counts, places, 0), classes)
        dtype = self.rows._type.dtype
        self.class_weight = None if weight is None else ops.cast(weight, dtype)
        present = ops.cast(self.counts, dtype)
        if self.class_weight is None:
            self.weights = present
        else:
            self.weights = ops.mul(ops.index(self.class_weight, self.places), present)

    def picked(self) -> Tensor:
        """Minus the weighted log-probability of each row's class."""
        count = self.rows._type.shape[0]
        row = ops.iota(shape=(count,), axis=0, dtype=int64, device=self.rows._type.device)
        chosen = ops.neg(ops.index(self.rows, row, self.places))
        if self.class_weight is not None:
            chosen = ops.mul(chosen, self.weights)
        return ops.where(self.counts, chosen, 0.0)

    def smoothed(self) -> Tensor:
        """Minus the weighted sum of the log-probabilities of each row."""
        rows = self.rows
        if self.class_weight is not None:
            rows = ops.mul(rows, self.class_weight)
        return ops.where(self.counts, ops.neg(ops.sum(rows, axes=(1,))), 0.0)

    def reduced(self, loss: Tensor, reduction: str, dtype: DType) -> Tensor:
        """``loss`` [rows]; its mean is over the weights of the rows that count."""
        if reduction == "none":
            return narrowed(ops.reshape(loss, shape=self.shape), dtype)
        total = sum_all(loss)
        if reduction == "mean":
            total = ops.div(total, sum_all(self.weights))
        return narrowed(total, dtype)


@autocasts(cpu=FLOAT32, cuda=FLOAT32)
@fused()
def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Minus the log-probability ``input`` [N, C, *] or [C] of the class ``target`` [N, *] or [].

    ``weight`` [C]: of each class; the mean is divided by the weights' sum.
    """
    reduction = chosen_reduction("nll_loss", size_average, reduce, reduction)
    require_tensor("nll_loss", "input", input)
    require_tensor("nll_loss", "target", target)
    require_floating("nll_loss", input)
    axis = _class_axis("nll_loss", input)
    _check("nll_loss", input, target, weight, axis)
    loss = _IndexedLoss("nll_loss", widened(input), target, weight, ignore_index, axis)
    return loss.reduced(loss.picked(), reduction, input._type.dtype)


@autocasts(cpu=FLOAT32, cuda=FLOAT32)
@fused()
def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """The cross-entropy of softmax(input) [N, C, *] or [C] with ``target``.

    target: int64 classes [N, *] or [], or probabilities of the input's shape.
    ``label_smoothing`` mixes the target with the uniform distribution (Szegedy et al.
    2016, section 7). ``ignore_index`` applies to class indices only.
    """
    name = "cross_entropy"
    reduction = chosen_reduction(name, size_average, reduce, reduction)
    require_tensor(name, "input", input)
    require_tensor(name, "target", target)
    require_floating(name, input)
    require(
        0.0 <= label_smoothing <= 1.0,
        f"{name}: label_smoothing must be between 0.0 and 1.0, got {label_smoothing}",
    )
    axis = _class_axis(name, input)
    if len(target._type.shape) == len(input._type.shape):
        return _with_probabilities(input, target, weight, reduction, label_smoothing, axis)
    _check(name, input, target, weight, axis)
    log_probabilities = log_softmax_over(widened(input), axis)
    loss = _IndexedLoss(name, log_probabilities, target, weight, ignore_index, axis)
    rows = loss.picked()
    if label_smoothing > 0.0:
        share = ops.constant(label_smoothing, rows._type)
        uniform = ops.div(share, input._type.shape[axis])
        rows = ops.add(ops.mul(rows, 1.0 - label_smoothing), ops.mul(loss.smoothed(), uniform))
    return loss.reduced(rows, reduction, input._type.dtype)


def _with_probabilities(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: str,
    label_smoothing: float,
    axis: int,
) -> Tensor:
    """The loss for a target that gives the probability of each class."""
    shape = input._type.shape
    if not all(map(equal, shape, target._type.shape)) or not target._type.dtype.is_floating_point:
        indices = format_shape((*shape[:axis], *shape[axis + 1 :]))
        raise OperationError(
            f"cross_entropy: a target with the dimensions of the input must hold floating-point "
            f"probabilities of the same size; got {target._type} for an input {input._type} "
            f"(at {user_location()}). Indices of classes have the shape {indices}: squeeze(1), "
            "or argmax of one-hot rows"
        )
    _check_weight("cross_entropy", input, weight, axis)
    log_probabilities = log_softmax_over(widened(input), axis)
    like = log_probabilities._type
    wanted = ops.cast(target, like.dtype)
    classes = shape[axis]
    if label_smoothing > 0.0:
        uniform = ops.div(ops.constant(label_smoothing, like), classes)
        wanted = ops.add(ops.mul(wanted, 1.0 - label_smoothing), uniform)
    terms = ops.mul(log_probabilities, wanted)
    if weight is not None:
        spread = (classes, *(1,) * (len(shape) - axis - 1))
        terms = ops.mul(terms, ops.reshape(ops.cast(weight, like.dtype), shape=spread))
    loss = ops.neg(ops.sum(terms, axes=(axis,)))
    if reduction == "none":
        return narrowed(loss, input._type.dtype)
    loss = sum_all(loss)
    if reduction == "mean":
        loss = ops.div(loss, _row_count(shape, axis))
    return narrowed(loss, input._type.dtype)


def _row_count(shape: tuple[Dim, ...], axis: int) -> Dim:
    return product((*shape[:axis], *shape[axis + 1 :]))
