"""Functions that give derivatives of functions: ``grad``, ``vjp``, ``jacrev``, ``hessian``.

They nest to any order and work eagerly and inside compiled functions. Names
and arguments are those of ``torch.func``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flamec.autograd import grad as gradients
from flamec.autograd import is_leaf_value, value_of
from flamec.dispatch import apply_named, tensor_builder
from flamec.errors import OperationError, OperationTypeError, user_location
from flamec.functional_call import functional_call, stack_module_state
from flamec.ir.passes.differentiate import reachable_nodes
from flamec.state import enable_grad
from flamec.structures import Structure, flatten, map_leaves, unflatten
from flamec.tensor import Tensor
from flamec.vectorized_map import vmap

__all__ = [
    "functional_call",
    "grad",
    "hessian",
    "jacrev",
    "stack_module_state",
    "value_and_grad",
    "vjp",
    "vmap",
]


def grad(
    func: Callable[..., Any], argnums: int | tuple[int, ...] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """The function that computes the gradient of ``func``, which returns a scalar tensor.

    ``argnums``: which positional arguments to differentiate by (tensors or nested
    structures of them). With ``has_aux``, ``func`` returns ``(scalar, anything)``
    and the result is ``(gradient, anything)``. OperationError if the result is not a scalar.
    """

    def derivative(*args: Any, **kwargs: Any) -> Any:
        result = value_and_grad(func, argnums, has_aux)(*args, **kwargs)
        if has_aux:
            gradient, (_, auxiliary) = result
            return gradient, auxiliary
        return result[0]

    return derivative


def value_and_grad(
    func: Callable[..., Any], argnums: int | tuple[int, ...] = 0, has_aux: bool = False
) -> Callable[..., tuple[Any, Any]]:
    """As ``grad``; returns ``(gradient, value)``, or ``(gradient, (value, anything))``."""

    def derivative(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        with enable_grad():
            replaced, leaves, rebuild = _differentiable(args, argnums)
            output = func(*replaced, **kwargs)
            value = output[0] if has_aux else output
            if not isinstance(value, Tensor):
                raise OperationTypeError(
                    f"grad: the function must return a tensor, not {type(value).__name__} "
                    f"(at {user_location()})"
                )
            if value.ndim != 0:
                raise OperationError(
                    f"grad: the function must return a scalar, not shape {list(value.shape)} "
                    f"(at {user_location()})"
                )
            found = _gradients([value], leaves, None)
            found, output = _released((found, output), leaves)
        return rebuild(found), output

    return derivative


def vjp(func: Callable[..., Any], *primals: Any) -> tuple[Any, Callable[..., tuple[Any, ...]]]:
    """``func(*primals)`` and a function from output gradients to gradients of each primal."""
    with enable_grad():
        replaced, leaves, rebuild = _differentiable(primals, tuple(range(len(primals))))
        output = func(*replaced)
        outputs, _ = flatten(output)

    def pull_back(*cotangents: Any) -> tuple[Any, ...]:
        seeds = flatten(cotangents)[0]
        with enable_grad():
            found = _released(_gradients(outputs, leaves, seeds), leaves)
        result: tuple[Any, ...] = rebuild(found)
        return result

    return _released(output, leaves), pull_back


def jacrev(func: Callable[..., Any], argnums: int = 0) -> Callable[..., Any]:
    """The function that computes the Jacobian of a tensor-valued ``func`` by reverse mode.

    The result has the shape of the output followed by the shape of the argument. One
    backward pass for each element of the output.
    """

    def jacobian(*args: Any, **kwargs: Any) -> Any:
        with enable_grad():
            replaced, leaves, rebuild = _differentiable(args, argnums)
            output = func(*replaced, **kwargs)
            if not isinstance(output, Tensor):
                raise OperationTypeError(
                    f"jacrev: the function must return a tensor, not {type(output).__name__}"
                )
            count = int(output.shape.numel())
            flat = apply_named("reshape", output, shape=(count,))
            rows: list[list[Tensor]] = [[] for _ in leaves]
            for index in range(count):
                element = apply_named("slice", flat, starts=(index,), sizes=(1,), steps=(1,))
                scalar = apply_named("reshape", element, shape=())
                for row, gradient in zip(rows, _gradients([scalar], leaves, None), strict=True):
                    row.append(gradient)
            stacked = [
                _stack(row, output.shape, leaf) for row, leaf in zip(rows, leaves, strict=True)
            ]
            stacked = _released(stacked, leaves)
        return rebuild(stacked)

    return jacobian


def hessian(func: Callable[..., Any], argnums: int = 0) -> Callable[..., Any]:
    """The function that computes the Hessian of a scalar-valued ``func``."""
    return jacrev(grad(func, argnums), argnums)


def _stack(rows: list[Tensor], output_shape: tuple[Any, ...], leaf: Tensor) -> Tensor:
    shape = (*output_shape, *leaf._type.shape)
    if not rows:
        zeros: Tensor = tensor_builder.full_like(0.0, leaf._type.with_shape(shape))
        return zeros
    single = [apply_named("reshape", r, shape=(1, *leaf._type.shape)) for r in rows]
    joined = single[0] if len(single) == 1 else apply_named("concatenate", *single, axis=0)
    result: Tensor = apply_named("reshape", joined, shape=shape)
    return result


def _differentiable(
    args: tuple[Any, ...], argnums: int | tuple[int, ...]
) -> tuple[tuple[Any, ...], list[Tensor], Callable[[list[Any]], Any]]:
    """Arguments with fresh tracked tensors at ``argnums``, those tensors, and how to rebuild."""
    numbers = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    replaced = list(args)
    leaves: list[Tensor] = []
    structures: list[Structure] = []
    for number in numbers:
        if not -len(args) <= number < len(args):
            raise IndexError(f"argnums {number} of a call with {len(args)} positional arguments")
        parts, structure = flatten(args[number])
        fresh = [_tracked(p) for p in parts]
        leaves.extend(fresh)
        structures.append(structure)
        replaced[number] = unflatten(structure, iter(fresh))

    def rebuild(values: list[Any]) -> Any:
        source = iter(values)
        results = tuple(unflatten(s, source) for s in structures)
        return results[0] if isinstance(argnums, int) else results

    return tuple(replaced), leaves, rebuild


def _tracked(leaf: Any) -> Tensor:
    if not isinstance(leaf, Tensor) or not leaf.dtype.is_floating_point:
        kind = repr(leaf.dtype) if isinstance(leaf, Tensor) else type(leaf).__name__
        raise OperationTypeError(
            f"derivatives are taken by floating-point tensors, not {kind} (at {user_location()})"
        )
    if leaf.requires_grad:  # a value of its own, still connected for higher orders
        shared: Tensor = apply_named("mul", leaf, tensor_builder.constant(1, leaf._type))
        return shared
    fresh: Tensor = apply_named("mul", leaf, tensor_builder.constant(1, leaf._type))
    fresh.requires_grad = True
    return fresh


def _gradients(outputs: list[Any], leaves: list[Tensor], seeds: list[Any] | None) -> list[Tensor]:
    if not any(o.requires_grad for o in outputs):
        return [tensor_builder.full_like(0.0, leaf._type) for leaf in leaves]
    found = gradients(
        outputs, leaves, seeds, create_graph=True, materialize_grads=True, allow_unused=True
    )
    return list(found)  # type: ignore[arg-type]


def _released(results: Any, leaves: list[Tensor]) -> Any:
    """``results`` without the history that leads to ``leaves`` only.

    A history that leads to other tensors is kept: an outer derivative follows it.
    """
    own = {value_of(leaf) for leaf in leaves}

    def release(result: Any) -> Any:
        if not isinstance(result, Tensor) or not result.requires_grad:
            return result
        value = value_of(result)
        assert value is not None
        nodes = reachable_nodes([value], lambda v: False)
        met = {value, *(v for node in nodes for v in node.inputs)}
        if any(is_leaf_value(v) and v not in own for v in met):
            return result
        return apply_named("detach", result)

    return map_leaves(release, results)
