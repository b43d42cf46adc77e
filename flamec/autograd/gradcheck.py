"""``gradcheck`` and ``gradgradcheck``: derivatives against finite differences.

In: a function of tensors, and tensors (float64, if the check is to be sharp) at which to check.
Out: True, or GradcheckError with both Jacobians.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from flamec.autograd import forward_ad
from flamec.autograd.engine import grad
from flamec.conversion import tensor as new_tensor
from flamec.func import jvp, vmap
from flamec.functional.joining import stack
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
    check_batched_grad: bool = False,
    check_batched_forward_grad: bool = False,
    check_forward_ad: bool = False,
    check_backward_ad: bool = True,
    fast_mode: bool = False,
    masked: bool | None = None,
) -> bool:
    """Whether the gradients of ``func(*inputs)`` agree with central differences of step ``eps``.

    Compared are the Jacobians of every floating-point output by every input that requires grad:
    ``|a - n| <= atol + rtol * |n|``. Two backward passes may differ by ``nondet_tol``.
    ``fast_mode`` compares one random projection of each Jacobian instead of all its elements.
    ``check_forward_ad``: also the products that dual tensors give; ``check_batched_grad`` (and
    ``check_batched_forward_grad``): that several at once equal one after the other.
    Where the check fails: GradcheckError, or False without ``raise_exception``. ValueError if
    no input requires grad. ``check_undefined_grad``, ``check_grad_dtypes`` and ``masked`` are
    accepted: gradients always have their input's dtype, and no tensor is sparse.
    """
    arguments = _as_tuple(inputs)
    try:
        if check_backward_ad or not (check_forward_ad or check_batched_forward_grad):
            _check(func, arguments, eps, atol, rtol, nondet_tol, fast_mode)
        if check_batched_grad:
            _check_batched(func, arguments, atol, rtol)
        if check_forward_ad:
            _check_forward(func, arguments, eps, atol, rtol)
        if check_batched_forward_grad:
            _check_batched_forward(func, arguments, atol, rtol)
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
    check_batched_grad: bool = False,
    check_fwd_over_rev: bool = False,
    check_rev_over_rev: bool = True,
    fast_mode: bool = False,
    masked: bool = False,
) -> bool:
    """As ``gradcheck``, for the gradients of ``func`` as functions of inputs and ``grad_outputs``.

    ``grad_outputs``: random numbers if None; ``gen_non_contig_grad_outputs`` lays them out with
    gaps. ``check_fwd_over_rev``: also by dual tensors; ``check_rev_over_rev``: by backward.
    """
    arguments = _as_tuple(inputs)
    if grad_outputs is None:
        rng = np.random.default_rng(0)
        seeds = []
        for output in _outputs(func, arguments):
            array = rng.standard_normal((*output.shape, 2 if gen_non_contig_grad_outputs else 1))
            seed = new_tensor(array, dtype=output.dtype, device=output.device)
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
        check_batched_grad=check_batched_grad,
        check_forward_ad=check_fwd_over_rev,
        check_backward_ad=check_rev_over_rev,
        fast_mode=fast_mode,
    )


def _differentiable(arguments: Sequence[Any]) -> list[int]:
    return [i for i, a in enumerate(arguments) if isinstance(a, Tensor) and a.requires_grad]


def _check_batched(
    func: Callable[..., Any], arguments: tuple[Any, ...], atol: float, rtol: float
) -> None:
    """Gradients for several seeds at once against those for one after the other."""
    wanted = [arguments[i] for i in _differentiable(arguments)]
    rng = np.random.default_rng(1)
    for k, output in enumerate(_outputs(func, arguments)):
        numbers = rng.standard_normal((2, *output.shape))
        seeds = new_tensor(numbers, dtype=output.dtype, device=output.device)
        options = {"retain_graph": True, "materialize_grads": True}
        together = grad(output, wanted, seeds, is_grads_batched=True, **options)
        for row in range(2):
            single = grad(output, wanted, seeds[row], **options)
            for batch, alone in zip(together, single, strict=True):
                assert batch is not None and alone is not None
                if not np.allclose(
                    batch[row].numpy(force=True), alone.numpy(force=True), rtol, atol
                ):
                    raise GradcheckError(f"batched gradients of output {k} differ from single ones")


def _pushed(func: Callable[..., Any], arguments: Sequence[Any], tangents: Any) -> list[np.ndarray]:
    """The tangents of the outputs, by dual tensors."""
    with forward_ad.dual_level():
        duals = [
            forward_ad.make_dual(a, tangents[i]) if i in tangents else a
            for i, a in enumerate(arguments)
        ]
        found = []
        for output in _outputs(func, duals):
            tangent = forward_ad.unpack_dual(output).tangent
            empty = np.zeros(output.shape)
            found.append(empty if tangent is None else tangent.numpy(force=True))
        return found


def _random_tangents(arguments: Sequence[Any], rng: np.random.Generator) -> dict[int, Tensor]:
    chosen = {i: arguments[i] for i in _differentiable(arguments)}
    return {
        i: new_tensor(rng.standard_normal(a.shape), dtype=a.dtype, device=a.device)
        for i, a in chosen.items()
    }


def _check_forward(
    func: Callable[..., Any], arguments: tuple[Any, ...], eps: float, atol: float, rtol: float
) -> None:
    """Tangents of the outputs along random directions against central differences."""
    tangents = _random_tangents(arguments, np.random.default_rng(2))
    if not tangents:
        raise ValueError("gradcheck expects at least one input tensor to require gradient")
    analytical = _pushed(func, arguments, tangents)
    sides = []
    for step in (eps, -eps):
        moved = list(arguments)
        for i, tangent in tangents.items():
            moved = _moved(moved, i, step * tangent.numpy(force=True).astype(np.float64))
        sides.append([o.numpy(force=True).astype(np.float64) for o in _outputs(func, moved)])
    for k, (a, up, down) in enumerate(zip(analytical, *sides, strict=True)):
        numerical = (up - down) / (2 * eps)
        if not np.allclose(a, numerical, rtol, atol, equal_nan=True):
            raise GradcheckError(
                f"forward mode: mismatch for output {k},\nnumerical:{numerical}\nanalytical:{a}"
            )


def _check_batched_forward(
    func: Callable[..., Any], arguments: tuple[Any, ...], atol: float, rtol: float
) -> None:
    """Tangents of the outputs for several directions at once against one after the other."""
    rng = np.random.default_rng(3)
    rows = [_random_tangents(arguments, rng) for _ in range(2)]
    places = list(rows[0])
    batch = [stack([row[i] for row in rows]) for i in places]

    def derivative(*tangents: Tensor) -> Any:
        def of_places(*primals: Tensor) -> Any:
            given = list(arguments)
            for i, primal in zip(places, primals, strict=True):
                given[i] = primal
            return tuple(_outputs(func, given))

        return jvp(of_places, tuple(arguments[i] for i in places), tangents)[1]

    together = vmap(derivative)(*batch)
    for row, tangents in enumerate(rows):
        for many, one in zip(together, _pushed(func, arguments, tangents), strict=True):
            if not np.allclose(many[row].numpy(force=True), one, rtol, atol, equal_nan=True):
                raise GradcheckError("batched tangents differ from single ones")


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
    positions = _differentiable(arguments)
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
        seed = new_tensor(direction, dtype=output.dtype, device=output.device)
        found = grad(output, wanted, seed, retain_graph=True, materialize_grads=True)
        for row, gradient in zip(rows, found, strict=True):
            assert gradient is not None
            row.append(gradient.numpy(force=True).astype(np.float64).reshape(-1))
    return [
        np.stack(row) if row else np.zeros((0, int(x.shape.numel())))
        for row, x in zip(rows, wanted, strict=True)
    ]


def _moved(arguments: Sequence[Any], position: int, change: np.ndarray) -> list[Any]:
    """The arguments with ``change`` added to one."""
    moved = list(arguments)
    old = arguments[position]
    array = old.numpy(force=True).astype(np.float64) + change
    moved[position] = new_tensor(array, dtype=old.dtype, device=old.device).requires_grad_()
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
        array: np.ndarray = result.numpy(force=True).astype(np.float64)
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
    before = [t.numpy(force=True) for t in _as_tuple(func(*arguments)) if isinstance(t, Tensor)]
    for i in positions:
        change = np.full(arguments[i].shape, eps)
        after = [
            t.numpy(force=True)
            for t in _as_tuple(func(*_moved(arguments, i, change)))
            if isinstance(t, Tensor)
        ]
        for a, b in zip(before, after, strict=True):
            if a.dtype.kind == "f" and not np.allclose(a, b, atol=atol * eps, rtol=0):
                raise GradcheckError("Numerical gradient for function expected to be zero")
