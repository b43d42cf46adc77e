"""All parameters as one vector, and back."""

from __future__ import annotations

from collections.abc import Iterable

from flamec.dispatch import write
from flamec.errors import OperationError, user_location
from flamec.functional.primitives import ops
from flamec.ir.shape import Dim, product
from flamec.state import no_grad
from flamec.tensor import Tensor

__all__ = ["parameters_to_vector", "vector_to_parameters"]


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """The elements of all parameters, one after the other; differentiable."""
    parts = [ops.reshape(p, shape=(product(p._type.shape),)) for p in parameters]
    if not parts:
        raise OperationError(f"parameters_to_vector: no parameters (at {user_location()})")
    return ops.concatenate(*parts, axis=0)


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Copy consecutive pieces of ``vec`` into the parameters."""
    if not isinstance(vec, Tensor):
        raise TypeError(f"expected Tensor, but got: {type(vec).__name__}")
    start: Dim = 0
    with no_grad():
        for parameter in parameters:
            shape = parameter._type.shape
            size = product(shape)
            piece = ops.slice(vec, starts=(start,), sizes=(size,), steps=(1,))
            piece = ops.cast(ops.reshape(piece, shape=shape), parameter._type.dtype)
            write(parameter, piece, "vector_to_parameters")
            start = start + size
