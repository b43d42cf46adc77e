"""Linear maps and tables: linear, bilinear, embedding, one_hot.

Matrix products are one ``dot_general`` each: the free dimensions of the input
stay as they are, so nothing is reshaped.
"""

from __future__ import annotations

from flamec.dispatch import write
from flamec.errors import OperationError, OperationTypeError, user_location
from flamec.functional.along_dimension import nonnegative
from flamec.functional.arguments import public
from flamec.functional.autocasting import LOWER, WIDEST, autocasts
from flamec.functional.dimensions import size
from flamec.functional.distance import norm_over
from flamec.functional.pooling import with_history
from flamec.functional.primitives import is_found_empty, narrowed, ops, require
from flamec.functional.promotion import require_tensor
from flamec.fusing import fused
from flamec.ir.shape import Dim, equal, format_shape, product
from flamec.ir.types import int32, int64
from flamec.state import no_grad, thread
from flamec.tensor import RuntimeNumber, Tensor
from flamec.values import as_size, concrete_array, required

__all__ = ["bilinear", "embedding", "linear", "one_hot"]


def require_same_dtype(name: str, *tensors: Tensor) -> None:
    dtypes = [t._type.dtype for t in tensors]
    if any(d is not dtypes[0] for d in dtypes):
        raise OperationTypeError(
            f"{name}: expected operands of one dtype, got "
            f"{', '.join(d.name for d in dtypes)} (at {user_location()})"
        )


@autocasts(cpu=LOWER, cuda=LOWER)
@public
@fused()
def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``input @ weight.T + bias``.

    input: [*, in_features]; weight: [out_features, in_features] or [in_features];
    bias: [out_features] or [].
    """
    require_tensor("linear", "input", input)
    require_tensor("linear", "weight", weight)
    operands = (input, weight) if bias is None else (input, weight, bias)
    require_same_dtype("linear", *operands)
    rank = len(input._type.shape)
    have, want = input._type.shape, weight._type.shape
    if rank == 0 or len(want) not in (1, 2) or not equal(have[-1], want[-1]):
        raise OperationError(
            f"linear: input {format_shape(have)} and weight {format_shape(want)} do not match: "
            f"the last dimension of the input must be the weight's in_features"
            f"{f', {want[-1]}' if want else ''} (at {user_location()})"
        )
    result: Tensor = ops.dot_general(
        input, weight, contract=((rank - 1,), (len(want) - 1,)), batch=((), ())
    )
    return result if bias is None else ops.add(result, bias)


@autocasts(cuda=WIDEST)
@fused()
def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``input1[*, i] * weight[o, i, j] * input2[*, j]`` summed over i and j, plus bias[o]."""
    operands = (input1, input2, weight) if bias is None else (input1, input2, weight, bias)
    for position, operand in enumerate(operands):
        require_tensor("bilinear", ("input1", "input2", "weight", "bias")[position], operand)
    require_same_dtype("bilinear", *operands)
    a, b, w = input1._type.shape, input2._type.shape, weight._type.shape
    if (
        len(w) != 3
        or not a
        or len(a) != len(b)
        or not all(map(equal, a[:-1], b[:-1]))
        or not equal(a[-1], w[1])
        or not equal(b[-1], w[2])
    ):
        raise OperationError(
            f"bilinear: inputs {format_shape(a)} and {format_shape(b)} do not match the weight "
            f"{format_shape(w)} [out, in1, in2] (at {user_location()})"
        )
    if bias is not None and not (len(bias._type.shape) == 1 and equal(bias._type.shape[0], w[0])):
        raise OperationError(
            f"bilinear: the bias {format_shape(bias._type.shape)} does not match the weight "
            f"{format_shape(w)} [out, in1, in2] (at {user_location()})"
        )
    rank = len(a)
    rows = ops.dot_general(input1, weight, contract=((rank - 1,), (1,)), batch=((), ()))
    spread = ops.reshape(input2, shape=(*b[:-1], 1, b[-1]))
    result = ops.sum(ops.mul(rows, spread), axes=(rank,))
    return result if bias is None else ops.add(result, bias)


def table_index(name: str, indices: Tensor, size: Dim) -> Tensor:
    """``indices`` as int64 in which a negative entry is out of range instead of from the end."""
    if indices._type.dtype not in (int64, int32):
        raise OperationTypeError(
            f"{name}: expected indices of dtype int64 or int32, got {indices._type.dtype.name} "
            f"(at {user_location()})"
        )
    return nonnegative(name, ops.cast(indices, int64), size)


@fused()
def embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """The rows of ``weight`` [num_embeddings, embedding_dim] that ``input`` names.

    input: int64 or int32 of any shape; result: [*input.shape, embedding_dim].
    Rows at ``padding_idx`` get no gradient. ``max_norm`` shortens, in place, the rows
    used whose ``norm_type``-norm is larger. ``scale_grad_by_freq`` divides a row's gradient by how
    often ``input`` names it. Raises IndexError for an index out of range.
    """
    require_tensor("embedding", "input", input)
    require_tensor("embedding", "weight", weight)
    require(len(weight._type.shape) == 2, "embedding: 'weight' must be 2-D")
    if sparse:
        raise NotImplementedError(
            f"embedding: sparse is not available; gradients are dense (at {user_location()})"
        )
    count = weight._type.shape[0]
    places = table_index("embedding", input, count)
    if max_norm is not None:
        shorten_rows("embedding", weight, places, max_norm, norm_type)
    rows = looked_up(weight, places, scale_grad_by_freq)
    if padding_idx is None:
        return rows
    require(
        -count <= padding_idx < count,
        f"embedding: padding_idx {padding_idx} is not within num_embeddings {count}",
    )
    padding = padding_idx + count if padding_idx < 0 else padding_idx
    is_padding = ops.reshape(ops.eq(places, padding), shape=(*places._type.shape, 1))
    return ops.where(is_padding, ops.detach(rows), rows)


def looked_up(weight: Tensor, places: Tensor, scale_grad_by_freq: bool) -> Tensor:
    """The rows at ``places``; if asked, the gradient of one that is there n times is an n-th."""
    rows: Tensor = ops.index(weight, places)
    if not scale_grad_by_freq:
        return rows
    kind = weight._type.with_dtype(weight._type.dtype.compute)
    ones = ops.full_like(1.0, kind.with_shape(places._type.shape))
    counts = ops.full_like(0.0, kind.with_shape(weight._type.shape[:1]))
    counts = ops.index_put(counts, ones, places, mode="add")
    share = ops.div(1.0, ops.index(counts, places))
    share = ops.reshape(narrowed(share, weight._type.dtype), shape=(*places._type.shape, 1))
    return with_history(ops.detach(rows), ops.mul(rows, share))


def shorten_rows(
    name: str, weight: Tensor, places: Tensor, max_norm: float, norm_type: float
) -> None:
    """Scale, in place, the rows at ``places`` whose norm is above ``max_norm`` down to it."""
    with no_grad():
        rows = ops.index(weight, places)
        last = len(rows._type.shape) - 1
        norms = norm_over(rows, norm_type, (last,), keepdim=True)
        scale = ops.where(ops.gt(norms, max_norm), ops.div(max_norm, ops.add(norms, 1e-7)), 1.0)
        shortened = ops.index_put(weight, ops.mul(rows, scale), places, mode="set")
        write(weight, shortened, name)


def one_hot(tensor: Tensor, num_classes: Dim = -1) -> Tensor:
    """int64 [*, num_classes]: 1 at the place that ``tensor`` names, else 0.

    ``num_classes=-1``: one more than the largest entry, which reads the values.
    """
    require_tensor("one_hot", "tensor", tensor)
    if tensor._type.dtype is not int64:
        raise OperationTypeError(
            f"one_hot: expected an int64 tensor, got {tensor._type.dtype.name} "
            f"(at {user_location()})"
        )
    if isinstance(num_classes, RuntimeNumber):
        num_classes = size("one_hot", num_classes)
    if num_classes == -1 and thread.trace is not None and thread.trace.can_read():
        num_classes = _found_class_count(tensor)
    elif thread.trace is None or num_classes == -1:
        num_classes = _checked_class_count(tensor, num_classes)
    else:
        tensor = required(tensor, lambda t: t >= 0, "one_hot: class values must be non-negative")
        message = "one_hot: class values must be smaller than num_classes"
        tensor = required(tensor, lambda t: t < num_classes, message)
    shape = tensor._type.shape
    classes = ops.iota(shape=(num_classes,), axis=0, dtype=int64, device=tensor._type.device)
    return ops.convert(ops.eq(ops.reshape(tensor, shape=(*shape, 1)), classes), dtype=int64)


def _found_class_count(tensor: Tensor) -> Dim:
    """One more than the largest entry, as a size that a program finds."""
    flat = ops.reshape(tensor, shape=(product(tensor._type.shape),))
    require(
        not is_found_empty(flat._type.shape[0]),
        "one_hot: the number of classes cannot be inferred from an empty tensor",
    )
    least = ops.amin(flat, axes=(0,))
    require(bool(ops.ge(least, 0)), "one_hot: class values must be non-negative")
    return as_size(ops.add(ops.amax(flat, axes=(0,)), 1), "one_hot()")


def _checked_class_count(tensor: Tensor, num_classes: Dim) -> Dim:
    array = concrete_array(tensor, "one_hot()")
    if not array.size:
        require(
            num_classes > 0,
            "one_hot: the number of classes cannot be inferred from an empty tensor",
        )
        return num_classes
    require(bool(array.min() >= 0), "one_hot: class values must be non-negative")
    largest = int(array.max())
    if num_classes == -1:
        return largest + 1
    require(num_classes > 0, "one_hot: num_classes must be positive")
    require(
        largest < num_classes,
        f"one_hot: class values must be smaller than num_classes, got {largest}",
    )
    return num_classes
