"""``einsum``: sums of products named by subscripts.

In: an equation and operands, or operands each followed by a list of
subscript numbers. Out: the contraction, taken from left to right: what no later
operand and no output needs is summed as early as possible.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flamec.errors import OperationError, OperationTypeError, user_location
from flamec.functional import arithmetic
from flamec.functional.autocasting import LOWER, autocasts
from flamec.functional.matrix import contracted
from flamec.functional.primitives import ops
from flamec.functional.promotion import require_tensor
from flamec.ir.broadcasting import broadcast_shapes
from flamec.ir.shape import Dim, equal, structurally_equal
from flamec.ir.types import int64
from flamec.tensor import Tensor

Axes = tuple[Sequence[int], Sequence[int]]
Label = str | int  # a letter, or the position of an ellipsis dimension counted from its end

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Labelled:
    """A tensor with a label for each dimension; no label occurs twice."""

    tensor: Tensor
    labels: tuple[Label, ...]

    def size(self, label: Label) -> Dim:
        return self.tensor._type.shape[self.labels.index(label)]

    def axes(self, labels: Sequence[Label]) -> tuple[int, ...]:
        return tuple(self.labels.index(label) for label in labels)

    def without(self, labels: Sequence[Label]) -> tuple[Label, ...]:
        return tuple(label for label in self.labels if label not in labels)

    def summed(self, labels: Sequence[Label]) -> Labelled:
        """Summed over some labels; sums of integers and bools are int64."""
        if not labels:
            return self
        axes = tuple(sorted(self.axes(labels)))
        floating = self.tensor._type.dtype.is_floating_point
        tensor = self.tensor if floating else ops.cast(self.tensor, int64)
        return Labelled(ops.sum(tensor, axes=axes), self.without(labels))

    def ordered(self, labels: Sequence[Label]) -> Labelled:
        """With its dimensions in the given order."""
        axes = self.axes(labels)
        if axes == tuple(range(len(axes))):
            return self
        return Labelled(ops.permute(self.tensor, axes=axes), tuple(labels))


def _fail(message: str) -> OperationError:
    return OperationError(f"einsum(): {message} (at {user_location()})")


@autocasts(cuda=LOWER)
def einsum(*args: Any) -> Tensor:
    """``einsum("ij,jk->ik", a, b)`` or ``einsum(a, [0, 1], b, [1, 2], [0, 2])``.

    Without ``->`` the output has the ellipsis dimensions and then, in alphabetical
    order, the subscripts that occur once. Raises RuntimeError for an equation that does
    not fit the operands.
    """
    if not args:
        raise _fail("needs an equation and operands")
    if not isinstance(args[0], str):
        args = _equation_of_lists(args)
    equation, operands = args[0].replace(" ", ""), args[1:]
    if len(operands) == 1 and isinstance(operands[0], (tuple, list)):
        operands = tuple(operands[0])
    tensors = [require_tensor("einsum", "operands", t) for t in operands]
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if len(terms) != len(tensors):
        raise _fail(f"{equation!r} names {len(terms)} operands, {len(tensors)} were given")
    labels = [
        _labels_of(term, t.ndim, position)
        for position, (term, t) in enumerate(zip(terms, tensors, strict=True))
    ]
    output = _output_labels(right, labels) if arrow else _implicit_output(labels)
    sizes = _sizes(labels, tensors)
    pending = [_prepared(t, term, sizes) for t, term in zip(tensors, labels, strict=True)]
    return _contract(pending, output).tensor


def _equation_of_lists(args: Sequence[Any]) -> tuple[Any, ...]:
    """The equation that interleaved operands and lists of numbers stand for."""
    tensors, lists = args[0::2], args[1::2]
    output = None
    if len(tensors) > len(lists):
        output, tensors = tensors[-1], tensors[:-1]
    equation = ",".join(map(_term_of_list, lists))
    if output is not None:
        equation += "->" + _term_of_list(output)
    return (equation, *tensors)


def _term_of_list(numbers: Any) -> str:
    term = ""
    for number in numbers:
        if number is Ellipsis:
            term += "..."
        elif isinstance(number, int) and 0 <= number < len(_LETTERS):
            term += _LETTERS[number]
        else:
            raise _fail(f"subscripts must be from 0 to {len(_LETTERS) - 1}, not {number!r}")
    return term


def _split_term(term: str) -> tuple[str, bool, str]:
    """The letters before an ellipsis, whether there is one, and the letters after it."""
    before, dots, after = term.partition("...")
    for letter in before + after:
        if letter not in _LETTERS:
            raise _fail(f"invalid subscript {letter!r} in {term!r}; subscripts must be letters")
    return before, bool(dots), after


def _labels_of(term: str, rank: int, position: int) -> tuple[Label, ...]:
    before, ellipsis, after = _split_term(term)
    covered = rank - len(before) - len(after)
    if covered < 0 or (covered and not ellipsis):
        raise _fail(
            f"the subscripts {term!r} name {len(before) + len(after)} dimensions, but operand "
            f"{position} has {rank}"
        )
    return (*before, *range(-covered, 0), *after)


def _ellipsis_labels(labels: Sequence[tuple[Label, ...]]) -> tuple[Label, ...]:
    longest = max(-min((x for x in term if isinstance(x, int)), default=0) for term in labels)
    return tuple(range(-longest, 0))


def _implicit_output(labels: Sequence[tuple[Label, ...]]) -> tuple[Label, ...]:
    letters = [x for term in labels for x in term if isinstance(x, str)]
    once = sorted((x for x in set(letters) if letters.count(x) == 1), key=_LETTERS.index)
    return (*_ellipsis_labels(labels), *once)


def _output_labels(term: str, labels: Sequence[tuple[Label, ...]]) -> tuple[Label, ...]:
    before, ellipsis, after = _split_term(term)
    known = {x for term in labels for x in term}
    for letter in before + after:
        if (before + after).count(letter) > 1:
            raise _fail(f"output subscript {letter!r} appears more than once in the output")
        if letter not in known:
            raise _fail(f"output subscript {letter!r} does not appear in any input operand")
    return (*before, *(_ellipsis_labels(labels) if ellipsis else ()), *after)


def _sizes(labels: Sequence[tuple[Label, ...]], tensors: Sequence[Tensor]) -> dict[Label, Dim]:
    """The broadcast size of each label."""
    sizes: dict[Label, Dim] = {}
    for position, (term, tensor) in enumerate(zip(labels, tensors, strict=True)):
        for label, extent in zip(term, tensor._type.shape, strict=True):
            try:
                (sizes[label],) = broadcast_shapes((sizes.get(label, 1),), (extent,))
            except ValueError:
                raise _fail(
                    f"subscript {label} has size {extent} for operand {position} which does not "
                    f"broadcast with previously seen size {sizes[label]}"
                ) from None
    return sizes


def _prepared(tensor: Tensor, term: tuple[Label, ...], sizes: dict[Label, Dim]) -> Labelled:
    """Diagonals taken for repeated labels; dimensions that are only broadcast dropped."""
    labels = list(term)
    for label in dict.fromkeys(labels):
        while labels.count(label) > 1:
            first = labels.index(label)
            second = labels.index(label, first + 1)
            if not equal(tensor._type.shape[first], tensor._type.shape[second]):
                raise _fail(
                    f"subscript {label} is repeated for dimensions of sizes "
                    f"{tensor._type.shape[first]} and {tensor._type.shape[second]}"
                )
            tensor = ops.diagonal(tensor, offset=0, axis1=first, axis2=second)
            del labels[second], labels[first]
            labels.append(label)
    kept = [
        i
        for i, (label, extent) in enumerate(zip(labels, tensor._type.shape, strict=True))
        if not structurally_equal(extent, 1) or structurally_equal(sizes[label], 1)
    ]
    if len(kept) < len(labels):
        tensor = ops.reshape(tensor, shape=tuple(tensor._type.shape[i] for i in kept))
    return Labelled(tensor, tuple(labels[i] for i in kept))


def _contract(operands: Sequence[Labelled], output: tuple[Label, ...]) -> Labelled:
    result = operands[0]
    for position, operand in enumerate(operands[1:], 1):
        needed = {*output, *(x for later in operands[position + 1 :] for x in later.labels)}
        result = _pair(result, operand, needed)
    result = result.summed([x for x in result.labels if x not in output])
    return result.ordered(output)


def _pair(x: Labelled, y: Labelled, needed: set[Label]) -> Labelled:
    """The product of two operands, summed over the labels that nothing needs afterwards."""
    x = x.summed([v for v in x.labels if v not in needed and v not in y.labels])
    y = y.summed([v for v in y.labels if v not in needed and v not in x.labels])
    shared = [v for v in x.labels if v in y.labels]
    batch = [v for v in shared if v in needed]
    summed = [v for v in shared if v not in needed]
    labels = (*batch, *x.without(shared), *y.without(shared))
    if summed:
        pairs = (x.axes(summed), y.axes(summed)), (x.axes(batch), y.axes(batch))
        return Labelled(_product(x.tensor, y.tensor, *pairs), labels)
    return Labelled(arithmetic.mul(_spread(x, labels), _spread(y, labels)), labels)


@autocasts(cpu=LOWER, cuda=LOWER)
def _product(x: Tensor, y: Tensor, contract: Axes, batch: Axes) -> Tensor:
    """The product of two operands, summed over the paired axes."""
    if x._type.dtype is not y._type.dtype:
        raise OperationTypeError(
            f"einsum(): expected operands of one dtype, got {x._type.dtype.name} and "
            f"{y._type.dtype.name} (at {user_location()})"
        )
    return contracted(x, y, contract, batch)


def _spread(x: Labelled, labels: tuple[Label, ...]) -> Tensor:
    """``x`` in the order of ``labels``, with size 1 where it has none of them."""
    x = x.ordered([v for v in labels if v in x.labels])
    shape = tuple(x.size(v) if v in x.labels else 1 for v in labels)
    return ops.reshape(x.tensor, shape=shape)


__all__ = ["einsum"]
