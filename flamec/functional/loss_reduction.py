"""How an elementwise loss becomes the result: ``reduction`` and PyTorch's older arguments."""

from __future__ import annotations

from flamec.errors import OperationError, user_location, warn_user
from flamec.functional.primitives import mean_all, narrowed, ops, require_floating, sum_all, widened
from flamec.functional.promotion import as_float_tensors, as_tensors
from flamec.ir.broadcasting import broadcast_shapes
from flamec.ir.shape import format_shape, structurally_equal
from flamec.ir.types import DType
from flamec.tensor import Tensor

REDUCTIONS = ("none", "mean", "sum")


def chosen_reduction(
    name: str, size_average: bool | None, reduce: bool | None, reduction: str
) -> str:
    """``reduction``, unless the deprecated ``size_average`` or ``reduce`` is given."""
    if size_average is not None or reduce is not None:
        reduction = "sum" if size_average is False else "mean"
        if reduce is False:
            reduction = "none"
        warn_user(
            f"size_average and reduce args will be deprecated, please use "
            f"reduction='{reduction}' instead."
        )
    if reduction not in REDUCTIONS:
        raise OperationError(
            f"{name}: {reduction!r} is not a valid value for reduction; known: none, mean, sum "
            f"(at {user_location()})"
        )
    return reduction


def reduced(loss: Tensor, reduction: str, dtype: DType) -> Tensor:
    """The elementwise ``loss`` as ``reduction`` says, rounded to ``dtype``."""
    if reduction == "mean":
        loss = mean_all(loss)
    elif reduction == "sum":
        loss = sum_all(loss)
    return narrowed(loss, dtype)


def loss_operands(
    name: str,
    *operands: Tensor,
    integers: bool = False,
    bools: bool = False,
    floating: bool = True,
) -> tuple[list[Tensor], DType]:
    """Operands of their common dtype in its compute dtype, and the dtype of the result.

    Where ``integers`` or ``bools`` are taken, the default dtype stands for theirs; integers stay
    what they are where the loss need not be ``floating``.
    """
    tensors = as_tensors(name, *operands)
    kind = tensors[0]._type.dtype.kind
    if bools if kind == "bool" else integers:
        tensors = as_float_tensors(name, *tensors)
    if floating or kind == "bool":
        require_floating(name, *tensors)
    return [widened(t) for t in tensors], tensors[0]._type.dtype


def same_shape(a: Tensor, b: Tensor) -> bool:
    """Whether two shapes are equal; symbolic sizes are asked about."""
    x, y = a._type.shape, b._type.shape
    return len(x) == len(y) and all(structurally_equal(i, j) or i == j for i, j in zip(x, y))  # noqa: B905


def broadcast_pair(name: str, input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Input and target in one shape, with PyTorch's warning where they differ."""
    if same_shape(input, target):
        return input, target
    sizes = format_shape(target._type.shape), format_shape(input._type.shape)
    warn_user(
        f"{name}: using a target size ({sizes[0]}) that is different to the input size "
        f"({sizes[1]}). This will likely lead to incorrect results due to broadcasting. Please "
        "ensure they have the same size."
    )
    try:
        shape = broadcast_shapes(input._type.shape, target._type.shape)
    except ValueError as error:
        raise OperationError(f"{name}: {error} (at {user_location()})") from None
    return ops.expand_to(input, shape), ops.expand_to(target, shape)
