"""``gradcheck`` and ``gradgradcheck``: derivatives against finite differences.

In: a function of tensors, and tensors (float64, if the check is to be sharp) at which to check.
Out: True, or GradcheckError with both Jacobians.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from flamec.autograd.engine import grad
from flamec.conversion import tensor as new_tensor
from flamec.ir.types import float64
from flamec.state import enable_grad, no_grad
from flamec.tensor import Tensor

__all__ = ["GradcheckError", "gradcheck", "gradgradcheck"]


class GradcheckError(RuntimeError):
    """A derivative differs from the finite difference."""


def gradcheck(
    func: Callable[..., Any],
    inputs: Tensor | Sequence[Any],
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    check_undefined_grad: bool = True,
    check_grad_dtypes: bool = False,
    fast_mode: bool = False,
    masked: bool | None = None,
) -> bool:
    """Whether the gradients of ``func(*inputs)`` agree with central differences of step ``eps``.

    Compared are the Jacobians of every floating-point output by every input that requires grad:
    ``|a - n| <= atol + rtol * |n|``. Two backward passes may differ by ``nondet_tol``.
    ``fast_mode`` compares one random projection of each Jacobian instead of all its elements.
    Where the check fails: GradcheckError, or False without ``raise_exception``. ValueError if
    no input requires grad. ``check_undefined_grad``, ``check_grad_dtypes`` and ``masked`` are
    accepted: gradients always have their input's dtype, and no tensor is sparse.
    """
    arguments = _as_tuple(inputs)
    try:
        _check(func, arguments, eps, atol, rtol, nondet_tol, fast_mode)
    except GradcheckError:
        if raise_exception:
            raise
        return False
    return True


def gradgradcheck(
    func: Callable[..., Any],
    inputs: Tensor | Sequence[Any],
    grad_outputs: Tensor | Sequence[Tensor] | None = None,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    gen_non_contig_grad_outputs: bool = False,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    check_undefined_grad: bool = True,
    check_grad_dtypes: bool = False,
    fast_mode: bool = False,
    masked: bool | None = None,
) -> bool:
    """As ``gradcheck``, for the gradients of ``func`` as functions of inputs and ``grad_outputs``.

    ``grad_outputs``: random numbers if None; ``gen_non_contig_grad_outputs`` lays them out with
    gaps.
    """
    arguments = _as_tuple(inputs)
    if grad_outputs is None:
        rng = np.random.default_rng(0)
        seeds = []
        for output in _outputs(func, arguments):
            array = rng.standard_normal((*output.shape, 2 if gen_non_contig_grad_outputs else 1))
            seed = new_tensor(array, dtype=output.dtype)
            seeds.append(seed[..., 0].detach().requires_grad_())
    else:
        seeds = list(_as_tuple(grad_outputs))
    count = len(seeds)

    def gradients(*args: Any) -> tuple[Any, ...]:
        given, cotangents = args[: len(args) - count], args[len(args) - count :]
        wanted = [a for a in given if isinstance(a, Tensor) and a.requires_grad]
        outputs = _outputs(func, given)
        found = grad(outputs, wanted, cotangents, create_graph=True, allow_unused=True)
        return tuple(g for g in found if g is not None)

    return gradcheck(
        gradients,
        (*arguments, *seeds),
        eps=eps,
        atol=atol,
        rtol=rtol,
        raise_exception=raise_exception,
        nondet_tol=nondet_tol,
        fast_mode=fast_mode,
    )


def _as_tuple(values: Any) -> tuple[Any, ...]:
    return (values,) if isinstance(values, Tensor) else tuple(values)


def _outputs(func: Callable[..., Any], arguments: Sequence[Any]) -> list[Tensor]:
    """The outputs that a gradient can come from."""
    return [t for t in _as_tuple(func(*arguments)) if isinstance(t, Tensor) and t.requires_grad]


def _check(
    func: Callable[..., Any],
    arguments: tuple[Any, ...],
    eps: float,
    atol: float,
    rtol: float,
    nondet_tol: float,
    fast_mode: bool,
) -> None:
    positions = [i for i, a in enumerate(arguments) if isinstance(a, Tensor) and a.requires_grad]
    if not positions:
        raise ValueError(
            "gradcheck expects at least one input tensor to require gradient, but none of them "
            "have requires_grad=True."
        )
    for i in positions:
        if arguments[i].dtype is not float64:
            warnings.warn(
                f"Input #{i} requires gradient and is not a double precision floating point. This "
                "check will likely fail if all the inputs are not of double precision.",
                stacklevel=3,
            )
    rng = np.random.default_rng(0)
    with enable_grad():
        outputs = _outputs(func, arguments)
        if not outputs:
            with no_grad():
                _expect_constant(func, arguments, positions, eps, atol)
            return
        for k, output in enumerate(outputs):
            if fast_mode:
                left = [rng.standard_normal(output.shape)]
            else:
                count = int(output.shape.numel())
                left = list(np.eye(count).reshape(count, *output.shape))
            analytical = _rows(output, arguments, positions, left)
            repeated = _rows(_outputs(func, arguments)[k], arguments, positions, left)
            for i, a, b in zip(positions, analytical, repeated, strict=True):
                if a.size and np.abs(a - b).max() > nondet_tol:
                    raise GradcheckError(
                        "Backward is not reentrant, i.e., running backward with same input and "
                        f"grad_output multiple times gives different values for output {k} with "
                        f"respect to input {i}, although analytical gradient matches numerical "
                        f"gradient. The tolerance for nondeterminism was {nondet_tol}."
                    )
            for i, a in zip(positions, analytical, strict=True):
                directions = [rng.standard_normal(arguments[i].shape)] if fast_mode else None
                n = _differences(func, arguments, i, k, eps, left, directions)
                if directions is not None:
                    a = a @ directions[0].reshape(-1, 1)
                if not np.allclose(a, n, rtol, atol, equal_nan=True):
                    raise GradcheckError(
                        f"Jacobian mismatch for output {k} with respect to input {i},\n"
                        f"numerical:{n.T}\nanalytical:{a.T}"
                    )


def _rows(
    output: Tensor, arguments: Sequence[Any], positions: Sequence[int], left: list[np.ndarray]
) -> list[np.ndarray]:
    """For each input the products of ``left`` with the Jacobian, one a row."""
    wanted = [arguments[i] for i in positions]
    rows: list[list[np.ndarray]] = [[] for _ in wanted]
    for direction in left:
        seed = new_tensor(direction, dtype=output.dtype)
        found = grad(output, wanted, seed, retain_graph=True, materialize_grads=True)
        for row, gradient in zip(rows, found, strict=True):
            assert gradient is not None
            row.append(gradient.detach().numpy().astype(np.float64).reshape(-1))
    return [
        np.stack(row) if row else np.zeros((0, int(x.shape.numel())))
        for row, x in zip(rows, wanted, strict=True)
    ]


def _moved(arguments: Sequence[Any], position: int, change: np.ndarray) -> list[Any]:
    """The arguments with ``change`` added to one."""
    moved = list(arguments)
    old = arguments[position]
    array = old.detach().numpy().astype(np.float64) + change
    moved[position] = new_tensor(array, dtype=old.dtype).requires_grad_()
    return moved


def _differences(
    func: Callable[..., Any],
    arguments: Sequence[Any],
    position: int,
    output: int,
    eps: float,
    left: list[np.ndarray],
    directions: list[np.ndarray] | None,
) -> np.ndarray:
    """``left @ J @ directions`` by central differences (all elements: directions None)."""
    shape = arguments[position].shape
    count = int(shape.numel())
    steps = np.eye(count).reshape(count, *shape) if directions is None else directions

    def value(change: np.ndarray) -> np.ndarray:
        result = _outputs(func, _moved(arguments, position, change))[output]
        array: np.ndarray = result.detach().numpy().astype(np.float64)
        return array.reshape(-1)

    columns = [(value(eps * step) - value(-eps * step)) / (2 * eps) for step in steps]
    rows = np.stack([row.reshape(-1) for row in left]) if left else np.zeros((0, 0))
    if not columns or not left:
        return np.zeros((len(left), len(columns)))
    product: np.ndarray = rows @ np.stack(columns, axis=1)
    return product


def _expect_constant(
    func: Callable[..., Any],
    arguments: Sequence[Any],
    positions: Sequence[int],
    eps: float,
    atol: float,
) -> None:
    """No output requires grad: then none may depend on the inputs."""
    before = [t.numpy() for t in _as_tuple(func(*arguments)) if isinstance(t, Tensor)]
    for i in positions:
        change = np.full(arguments[i].shape, eps)
        after = [
            t.numpy()
            for t in _as_tuple(func(*_moved(arguments, i, change)))
            if isinstance(t, Tensor)
        ]
        for a, b in zip(before, after, strict=True):
            if a.dtype.kind == "f" and not np.allclose(a, b, atol=atol * eps, rtol=0):
                raise GradcheckError("Numerical gradient for function expected to be zero")
