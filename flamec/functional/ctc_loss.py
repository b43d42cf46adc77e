"""Connectionist temporal classification (Graves et al. 2006)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from flamec.control_flow import scan
from flamec.conversion import as_tensor
from flamec.errors import OperationError, user_location
from flamec.functional.autocasting import FLOAT32, autocasts
from flamec.functional.creation import arange, full
from flamec.functional.joining import cat, stack
from flamec.functional.loss_reduction import REDUCTIONS
from flamec.functional.primitives import mean_all, narrowed, ops, require, sum_all, widened
from flamec.functional.shape import window
from flamec.ir.shape import SymbolicDim, format_shape, maximum
from flamec.ir.types import Device, int64
from flamec.state import thread
from flamec.tensor import Tensor
from flamec.values import required

__all__ = ["ctc_loss"]

Lengths = Tensor | Sequence[int]


@autocasts(cpu=FLOAT32, cuda=FLOAT32)
def ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Lengths,
    target_lengths: Lengths,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    """-log of the probability of all alignments of ``targets`` with the input's steps.

    ``log_probs``: (steps, batch, classes) or (steps, classes), logarithms of probabilities.
    ``targets``: (batch, longest) padded, or all targets one after the other. The mean divides each
    loss by its target's length first. A target that has no alignment gives infinity, or
    0 with ``zero_infinity``.

    The forward variables of the paper's section 4.1, in logarithms, one step after the other: a
    compiled program grows with the number of steps, or is a loop over them where that is symbolic.
    Unlike PyTorch's, the gradient is the derivative by ``log_probs`` itself; behind ``log_softmax``
    the two are equal.
    """
    if reduction not in REDUCTIONS:
        raise OperationError(f"ctc_loss: {reduction!r} is not a reduction (at {user_location()})")
    is_single = len(log_probs._type.shape) == 2
    if is_single:
        log_probs = log_probs.unsqueeze(1)
    rank = len(log_probs._type.shape)
    require(rank == 3, f"ctc_loss: log_probs must have 2 or 3 dimensions, not {rank}")
    steps, batch, classes = log_probs.shape
    require(
        0 <= blank < classes,
        f"ctc_loss: blank must be in label range, but blank is {blank} and there are {classes}",
    )
    device = log_probs.device
    inputs = _lengths("input_lengths", input_lengths, batch, steps, device)
    outputs = _lengths("target_lengths", target_lengths, batch, None, device)
    labels = _padded(targets.to(device, int64), outputs, batch, blank)
    loss = -_log_likelihood(widened(log_probs), labels, inputs, outputs, blank)
    if zero_infinity:
        loss = ops.where(ops.eq(loss, math.inf), 0.0, loss)
    if reduction == "mean":
        divisor = ops.cast(outputs.clamp(min=1), loss._type.dtype)
        loss = mean_all(ops.div(loss, divisor))
    elif reduction == "sum":
        loss = sum_all(loss)
    elif is_single:
        loss = loss.squeeze(0)
    return narrowed(loss, log_probs._type.dtype)


def _lengths(name: str, lengths: Lengths, batch: Any, largest: Any, device: Device) -> Tensor:
    """Lengths as an int64 tensor of shape (batch,), checked where their values are known."""
    made = as_tensor(lengths).to(device, int64).reshape(-1)
    require(
        made.shape[0] == batch,
        f"ctc_loss: {name} must have one entry for each of the batch of {batch}, but has "
        f"{format_shape(made._type.shape)}",
    )
    if thread.trace is not None:
        made = required(made, lambda n: n >= 0, f"ctc_loss: {name} must not be negative")
        if largest is not None:
            message = f"ctc_loss: Expected {name} to have value at most the number of steps"
            made = required(made, lambda n: n <= largest, message)
    elif made.numel():
        low, high = int(made.min().item()), int(made.max().item())
        require(low >= 0, f"ctc_loss: {name} must not be negative, got {low}")
        if largest is not None:
            require(
                high <= largest,
                f"ctc_loss: Expected {name} to have value at most {largest}, but got value {high}",
            )
    return made


def _padded(targets: Tensor, lengths: Tensor, batch: Any, blank: int) -> Tensor:
    """Targets as (batch, longest), blank behind each target's end."""
    if len(targets._type.shape) == 1:
        longest = targets.shape[0]
        if thread.trace is None:
            total = int(lengths.sum().item())
            require(
                total <= longest,
                f"ctc_loss: target_lengths sum to {total}, but there are {longest} targets",
            )
            longest = int(lengths.max().item()) if batch else 0
        place = arange(longest, device=targets.device)
        starts = lengths.cumsum(0) - lengths
        last = maximum(targets._type.shape[0] - 1, 0)
        where_from = ops.minimum(starts.unsqueeze(1) + place, last)
        count = batch * longest
        taken = targets.index_select(0, where_from.reshape(count)) if count else where_from
        targets = taken.reshape(batch, longest)
    elif thread.trace is not None:
        message = "ctc_loss: a target_length is larger than the number of columns of targets"
        lengths = required(lengths, lambda n: n <= targets.shape[1], message)
    elif lengths.numel():
        high, width = int(lengths.max().item()), targets.shape[1]
        require(
            high <= width, f"ctc_loss: a target_length is {high}, but targets has {width} columns"
        )
    is_target = arange(targets.shape[1], device=targets.device) < lengths.unsqueeze(1)
    return targets.masked_fill(is_target.logical_not(), blank)


def _log_likelihood(
    log_probs: Tensor, labels: Tensor, inputs: Tensor, outputs: Tensor, blank: int
) -> Tensor:
    """Of each sequence, shape (batch,): the forward algorithm over labels with blanks between."""
    steps, batch, longest = log_probs.shape[0], log_probs.shape[1], labels.shape[1]
    dtype, device = log_probs.dtype, log_probs.device
    blanks = full((batch, longest), blank, dtype=int64, device=device)
    between = stack([blanks, labels], 2).reshape(batch, 2 * longest)
    extended = cat([between, full((batch, 1), blank, dtype=int64, device=device)], 1)
    width = 2 * longest + 1
    never = full((batch, width), -math.inf, dtype=dtype, device=device)
    emitted = log_probs.gather(2, extended.unsqueeze(0).expand(steps, batch, width))
    may_skip = (extended != _moved(extended, 2, -1)) & (extended != blank)
    position = arange(width, device=device)

    def after(alpha: Tensor, emission: Tensor, step: Any) -> Tensor:
        skipped = ops.where(may_skip, _moved(alpha, 2, -math.inf), never)
        new = _log_of_sum(alpha, _moved(alpha, 1, -math.inf), skipped) + emission
        return ops.where((inputs > step).unsqueeze(1).expand(batch, width), new, alpha)

    if isinstance(steps, SymbolicDim):
        # before the first step there is the first blank alone, of which both first labels follow
        alpha = ops.where((position == 0).expand(batch, width), 0.0, never)
        numbered = arange(steps, device=device)
        alpha, _ = scan(lambda a, step: (after(a, *step), None), alpha, (emitted, numbered))
    else:
        alpha = never
        for step in range(steps):
            if step == 0:
                first = ops.where((position < 2).expand(batch, width), emitted[0], never)
                alpha = ops.where((inputs > 0).unsqueeze(1).expand(batch, width), first, never)
            else:
                alpha = after(alpha, emitted[step], step)
    end = (2 * outputs).unsqueeze(1)
    with_blank = alpha.gather(1, end).squeeze(1)
    without = alpha.gather(1, (end - 1).clamp(min=0)).squeeze(1)
    without = ops.where(outputs > 0, without, never[:, 0])
    total = _log_of_sum(with_blank, without)
    nothing = ops.where(outputs > 0, never[:, 0], 0.0)  # of no steps: only no target fits
    return ops.where(inputs > 0, total, nothing)


def _moved(x: Tensor, by: int, fill: float) -> Tensor:
    """Rows with their elements so many places further on, behind ``fill``."""
    width = x._type.shape[1]
    padded = ops.pad(x, fill, low=(0, by), high=(0, 0))
    return window(padded, 1, 0, width)


def _log_of_sum(*terms: Tensor) -> Tensor:
    """log of the sum of exponentials; -infinity where every term is, with gradient 0."""
    largest = terms[0]
    for term in terms[1:]:
        largest = ops.maximum(largest, term)
    is_never = ops.eq(largest, -math.inf)
    shift = ops.detach(ops.where(is_never, 0.0, largest))
    total = ops.exp(ops.sub(terms[0], shift))
    for term in terms[1:]:
        total = ops.add(total, ops.exp(ops.sub(term, shift)))
    logarithm = ops.add(ops.log(ops.where(is_never, 1.0, total)), shift)
    return ops.where(is_never, -math.inf, logarithm)
