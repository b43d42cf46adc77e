"""Functions that give derivatives of functions: ``grad``, ``vjp``, ``jacrev``, ``hessian``.

They nest to any order and work eagerly and inside compiled functions. Names
and arguments are those of ``torch.func``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flamec.autograd import grad as gradients
from flamec.autograd import is_leaf_value, value_of
from flamec.autograd.engine import grad_by_path
from flamec.dispatch import apply_named, tensor_builder
from flamec.errors import OperationError, OperationTypeError, user_location
from flamec.functional_call import (
    functional_call,
    replace_all_batch_norm_modules_,
    stack_module_state,
)
from flamec.ir.passes.differentiate import reachable_nodes
from flamec.ir.types import int64
from flamec.state import enable_grad, thread
from flamec.structures import Structure, flatten, map_leaves, unflatten
from flamec.tensor import Tensor
from flamec.vectorized_map import vmap

__all__ = [
    "functional_call",
    "grad",
    "grad_and_value",
    "hessian",
    "jacfwd",
    "jacrev",
    "jvp",
    "linearize",
    "replace_all_batch_norm_modules_",
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


grad_and_value = value_and_grad


def vjp(func: Callable[..., Any], *primals: Any, has_aux: bool = False) -> tuple[Any, ...]:
    """``func(*primals)`` and a function from output gradients to gradients of each primal.

    With ``has_aux``, ``func`` returns ``(output, anything)``, which comes third.
    """
    with enable_grad():
        replaced, leaves, rebuild = _differentiable(primals, tuple(range(len(primals))))
        result = func(*replaced)
        output, auxiliary = result if has_aux else (result, None)
        outputs, _ = flatten(output)

    def pull_back(*cotangents: Any) -> tuple[Any, ...]:
        seeds = flatten(cotangents)[0]
        with enable_grad():
            found = _released(_gradients(outputs, leaves, seeds), leaves)
        result: tuple[Any, ...] = rebuild(found)
        return result

    if has_aux:
        return _released(output, leaves), pull_back, _released(auxiliary, leaves)
    return _released(output, leaves), pull_back


def jvp(
    func: Callable[..., Any],
    primals: tuple[Any, ...],
    tangents: tuple[Any, ...],
    *,
    strict: bool = False,
    has_aux: bool = False,
) -> tuple[Any, ...]:
    """``func(*primals)`` and its directional derivative along ``tangents`` (same structure).

    The gradient of the outputs is linear in its seed; its own derivative by the seed is the
    directional derivative (J. Townsend, "A new trick for calculating Jacobian vector products",
    2017). With ``has_aux``, ``func`` returns ``(output, anything)``, which comes third.
    """
    if not isinstance(primals, tuple) or not isinstance(tangents, tuple):
        raise RuntimeError("jvp: Expected primals and tangents to be tuples")
    directions, wanted = flatten(tangents)
    if wanted != flatten(primals)[1]:
        raise RuntimeError("jvp: Expected primals and tangents to have the same python structure")
    with enable_grad():
        replaced, leaves, _ = _differentiable(primals, tuple(range(len(primals))))
        for leaf, direction in zip(leaves, directions, strict=True):
            if not isinstance(direction, Tensor) or direction.shape != leaf.shape:
                raise RuntimeError(
                    "jvp: Expected primals and tangents to be tensors of the same shapes, got "
                    f"{list(leaf.shape)} and {list(getattr(direction, 'shape', ()))}"
                )
        result = func(*replaced)
        output, auxiliary = result if has_aux else (result, None)
        outputs, structure = flatten(output)
        _require_tensors("jvp", outputs)
        found = _derivatives_or_zeros(outputs, leaves, directions, strict)
        found, output, auxiliary = _released((found, output, auxiliary), leaves)
    derivative = unflatten(structure, iter(found))
    return (output, derivative, auxiliary) if has_aux else (output, derivative)


def forward_derivatives(
    outputs: list[Tensor], leaves: list[Tensor], directions: list[Tensor]
) -> list[Tensor | None]:
    """The directional derivative of each output, by differentiating a gradient twice.

    None for an output that does not depend on the leaves.
    """
    results: list[Tensor | None] = []
    for output in outputs:
        if not output.requires_grad or not output.dtype.is_floating_point:
            results.append(None)
            continue
        seed = tracked(tensor_builder.full_like(0.0, output._type))
        found = gradients(
            [output], leaves, [seed], retain_graph=True, create_graph=True, allow_unused=True
        )
        if all(g is None for g in found):
            results.append(None)
            continue
        linear = [
            (g, d)
            for g, d in zip(found, directions, strict=True)
            if g is not None and g.requires_grad
        ]
        (derivative,) = (
            grad_by_path([g for g, _ in linear], [seed], [d for _, d in linear])
            if linear
            else (tensor_builder.full_like(0.0, output._type),)
        )
        results.extend(_released([derivative], [seed, *leaves]))
    return results


def _derivatives_or_zeros(
    outputs: list[Tensor], leaves: list[Tensor], directions: list[Tensor], strict: bool
) -> list[Tensor]:
    found = forward_derivatives(outputs, leaves, directions)
    if strict and any(derivative is None for derivative in found):
        raise RuntimeError(
            "jvp(f, primals, tangents, strict=True): The output of f is "
            "independent of the inputs. This is not allowed with strict=True."
        )
    return [
        tensor_builder.full_like(0.0, output._type) if derivative is None else derivative
        for output, derivative in zip(outputs, found, strict=True)
    ]


def linearize(func: Callable[..., Any], *primals: Any) -> tuple[Any, Callable[..., Any]]:
    """``func(*primals)``, and the function from tangents to directional derivatives there.

    ``func`` is run once, however many tangents follow. Tangents have the structure and the
    shapes of the primals: RuntimeError otherwise.
    """
    with enable_grad():
        replaced, leaves, _ = _differentiable(primals, tuple(range(len(primals))))
        outputs, structure = flatten(func(*replaced))
        _require_tensors("linearize", outputs)
    form = flatten(primals)[1]

    def push_forward(*tangents: Any) -> Any:
        directions, given = flatten(tangents)
        if given != form:
            raise RuntimeError(
                "linearize: expected tangents of the structure of the primals "
                f"(at {user_location()})"
            )
        for leaf, direction in zip(leaves, directions, strict=True):
            if not isinstance(direction, Tensor) or direction.shape != leaf.shape:
                raise RuntimeError(
                    f"linearize: expected a tangent of shape {list(leaf.shape)}, got "
                    f"{list(getattr(direction, 'shape', ()))} (at {user_location()})"
                )
        with enable_grad():
            found = _derivatives_or_zeros(outputs, leaves, directions, False)
            return unflatten(structure, iter(_released(found, leaves)))

    return unflatten(structure, iter(_released(outputs, leaves))), push_forward


def _require_tensors(name: str, outputs: list[Any]) -> None:
    for output in outputs:
        if not isinstance(output, Tensor):
            raise OperationTypeError(
                f"{name}: the function must return tensors, not {type(output).__name__} "
                f"(at {user_location()})"
            )


def jacrev(
    func: Callable[..., Any],
    argnums: int | tuple[int, ...] = 0,
    *,
    has_aux: bool = False,
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """The function that computes the Jacobian of ``func`` by reverse mode.

    For each output a structure like the arguments ``argnums``; each part has the shape of the
    output followed by that of the argument. All rows are computed in one batched backward pass,
    ``chunk_size`` rows at a time.
    """

    def jacobian(*args: Any, **kwargs: Any) -> Any:
        with enable_grad():
            replaced, leaves, rebuild = _differentiable(args, argnums)
            result = func(*replaced, **kwargs)
            output, auxiliary = result if has_aux else (result, None)
            outputs, structure = flatten(output)
            _require_tensors("jacrev", outputs)
            rows = []
            for one in outputs:
                found = _rows(one, leaves, chunk_size)
                rows.append(rebuild(_released(found, leaves)))
            auxiliary = _released(auxiliary, leaves)
        jacobians = unflatten(structure, iter(rows))
        return (jacobians, auxiliary) if has_aux else jacobians

    return jacobian


def _rows(output: Tensor, leaves: list[Tensor], chunk_size: int | None) -> list[Tensor]:
    """The Jacobian of one output by each leaf."""
    count = int(output.shape.numel())
    shapes = [(*output._type.shape, *leaf._type.shape) for leaf in leaves]
    if not output.requires_grad or not count:
        return [
            tensor_builder.full_like(0.0, leaf._type.with_shape(shape))
            for leaf, shape in zip(leaves, shapes, strict=True)
        ]
    size = chunk_size or count
    parts: list[tuple[Tensor | None, ...]] = []
    for start in range(0, count, size):
        basis = _basis(output, start, min(size, count - start))
        parts.append(
            gradients(
                [output],
                leaves,
                [basis],
                create_graph=True,
                allow_unused=True,
                is_grads_batched=True,
                materialize_grads=True,
            )
        )
    return [
        tensor_builder.reshape(_joined([p[i] for p in parts]), shape=shape)
        for i, shape in enumerate(shapes)
    ]


def _joined(parts: list[Any]) -> Any:
    return parts[0] if len(parts) == 1 else apply_named("concatenate", *parts, axis=0)


def _basis(like: Tensor, start: int, count: int) -> Tensor:
    """``count`` unit vectors in the shape of ``like``, from the one at ``start`` on."""
    total = int(like.shape.numel())
    b, device = tensor_builder, like.device
    row = b.iota(shape=(count, total), axis=0, dtype=int64, device=device)
    column = b.iota(shape=(count, total), axis=1, dtype=int64, device=device)
    hit = b.eq(b.add(row, b.constant(start, row._type)), column)
    basis: Tensor = b.reshape(b.cast(hit, like.dtype), shape=(count, *like._type.shape))
    return basis


def jacfwd(
    func: Callable[..., Any],
    argnums: int | tuple[int, ...] = 0,
    has_aux: bool = False,
    *,
    randomness: str = "error",
) -> Callable[..., Any]:
    """As ``jacrev``, by directional derivatives: one batched pass for each argument tensor."""

    def jacobian(*args: Any, **kwargs: Any) -> Any:
        numbers = (argnums,) if isinstance(argnums, int) else tuple(argnums)
        chosen = tuple(args[n] for n in numbers)
        leaves, structure = flatten(chosen)
        shared: list[Any] = []

        def of(values: list[Any]) -> Any:
            replaced = list(args)
            for number, value in zip(numbers, unflatten(structure, iter(values)), strict=True):
                replaced[number] = value
            return func(*replaced, **kwargs)

        columns = []
        for position, leaf in enumerate(leaves):

            def along(direction: Tensor, position: int = position) -> Any:
                def one(value: Tensor) -> Any:
                    return of([*leaves[:position], value, *leaves[position + 1 :]])

                found = jvp(one, (leaves[position],), (direction,), has_aux=has_aux)
                return found[1:]

            batched = vmap(
                along,
                out_dims=(-1, None) if has_aux else -1,
                randomness=randomness,
            )
            found = batched(_basis(leaf, 0, int(leaf.shape.numel())))
            columns.append(found[0])
            shared = list(found[1:])
        outputs, output_structure = flatten(columns[0])
        results = []
        for k in range(len(outputs)):
            parts = [
                tensor_builder.reshape(c, shape=(*c._type.shape[:-1], *leaf._type.shape))
                for c, leaf in ((flatten(c)[0][k], x) for c, x in zip(columns, leaves, strict=True))
            ]
            whole = unflatten(structure, iter(parts))
            results.append(whole[0] if isinstance(argnums, int) else whole)
        jacobians = unflatten(output_structure, iter(results))
        return (jacobians, shared[0]) if has_aux else jacobians

    return jacobian


def hessian(func: Callable[..., Any], argnums: int | tuple[int, ...] = 0) -> Callable[..., Any]:
    """The function that computes the Hessian of a scalar-valued ``func``."""
    return jacfwd(jacrev(func, argnums), argnums)


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
        fresh = [tracked(p) for p in parts]
        leaves.extend(fresh)
        structures.append(structure)
        replaced[number] = unflatten(structure, iter(fresh))

    def rebuild(values: list[Any]) -> Any:
        source = iter(values)
        results = tuple(unflatten(s, source) for s in structures)
        return results[0] if isinstance(argnums, int) else results

    return tuple(replaced), leaves, rebuild


def tracked(leaf: Any) -> Tensor:
    if not isinstance(leaf, Tensor) or not leaf.dtype.is_floating_point:
        kind = repr(leaf.dtype) if isinstance(leaf, Tensor) else type(leaf).__name__
        raise OperationTypeError(
            f"derivatives are taken by floating-point tensors, not {kind} (at {user_location()})"
        )
    # a value of its own, still connected for higher orders, in the same memory
    fresh: Tensor = apply_named("reshape", leaf, shape=leaf._type.shape)
    if not leaf.requires_grad:
        fresh.requires_grad = True
    return fresh


def _gradients(outputs: list[Any], leaves: list[Tensor], seeds: list[Any] | None) -> list[Tensor]:
    kept = [i for i, o in enumerate(outputs) if o.requires_grad]  # others depend on nothing
    if not kept:
        return [tensor_builder.full_like(0.0, leaf._type) for leaf in leaves]
    if seeds is not None and len(seeds) == len(outputs):
        seeds = [seeds[i] for i in kept]
        outputs = [outputs[i] for i in kept]
    found = gradients(
        outputs, leaves, seeds, create_graph=True, materialize_grads=True, allow_unused=True
    )
    return list(found)  # type: ignore[arg-type]  # none is None


def _released(results: Any, leaves: list[Tensor]) -> Any:
    """``results`` without the history that leads to ``leaves`` only.

    A history that leads to other tensors is kept: an outer derivative follows it.
    """
    own = {value_of(leaf) for leaf in leaves}
    if thread.trace is not None:
        from flamec.autograd.surrounding_history import following_from  # where traces are known

        own |= following_from(thread.trace, leaves)

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
