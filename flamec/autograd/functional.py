"""Jacobians, Hessians and their products with vectors: the names of ``torch.autograd.functional``.

``inputs`` is a tensor or a tuple of tensors, and the results follow: a tensor for a tensor, a
tuple for a tuple. Without ``create_graph`` the results carry no history. ``strict``: RuntimeError
where an output does not depend on an input, instead of zeros. The work is done by
``flamec.func``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flamec import func as functions
from flamec.autograd.engine import grad
from flamec.errors import user_location
from flamec.state import enable_grad
from flamec.structures import map_leaves
from flamec.tensor import Tensor

__all__ = ["hessian", "hvp", "jacobian", "jvp", "vhp", "vjp"]

Function = Callable[..., Any]


def vjp(
    func: Function, inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False
) -> tuple[Any, Any]:
    """``func(*inputs)``, and the product of ``v`` (shaped like it) with its Jacobian.

    ``v`` may be None for a result of one element.
    """
    given, single = _inputs("vjp", inputs, create_graph)
    if strict:
        _require_dependence("vjp", func, given)
    output, pull_back = functions.vjp(func, *given)
    seeds = _vectors("vjp", v, output)
    found = pull_back(*seeds)
    return _results((output, found[0] if single else found), create_graph)


def jvp(
    func: Function, inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False
) -> tuple[Any, Any]:
    """``func(*inputs)``, and the product of its Jacobian with ``v`` (shaped like the inputs).

    ``v`` may be None for an input of one element.
    """
    given, _ = _inputs("jvp", inputs, create_graph)
    if strict:
        _require_dependence("jvp", func, given)
    directions = _vectors("jvp", v, given)
    return _results(functions.jvp(func, given, directions), create_graph)


def jacobian(
    func: Function,
    inputs: Any,
    create_graph: bool = False,
    strict: bool = False,
    vectorize: bool = False,
    strategy: str = "reverse-mode",
) -> Any:
    """The Jacobian of ``func`` at ``inputs``: shape of the output, then shape of the input.

    A tuple for each output or input of which there is a tuple. ``strategy``: by rows
    (``"reverse-mode"``) or by columns (``"forward-mode"``). ``vectorize`` is accepted: all rows
    are computed at once in any case.
    """
    given, single = _inputs("jacobian", inputs, create_graph)
    if strict:
        _require_dependence("jacobian", func, given)
    numbers: Any = 0 if single else tuple(range(len(given)))
    return _results(_by_strategy(strategy)(func, numbers)(*given), create_graph)


def hessian(
    func: Function,
    inputs: Any,
    create_graph: bool = False,
    strict: bool = False,
    vectorize: bool = False,
    outer_jacobian_strategy: str = "reverse-mode",
) -> Any:
    """The Hessian of ``func``, whose result has one element; for a tuple of inputs a tuple of
    tuples. The other arguments are as in ``jacobian``."""
    given, single = _inputs("hessian", inputs, create_graph)
    if strict:
        _require_dependence("hessian", func, given)
    numbers: Any = 0 if single else tuple(range(len(given)))
    outer = _by_strategy(outer_jacobian_strategy)
    gradient = functions.grad(_scalar("hessian", func), numbers)
    return _results(outer(gradient, numbers)(*given), create_graph)


def hvp(
    func: Function, inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False
) -> tuple[Any, Any]:
    """``func(*inputs)``, which has one element, and the product of its Hessian with ``v``."""
    return _hessian_product("hvp", func, inputs, v, create_graph, strict)


def vhp(
    func: Function, inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False
) -> tuple[Any, Any]:
    """``func(*inputs)``, which has one element, and the product of ``v`` with its Hessian."""
    return _hessian_product("vhp", func, inputs, v, create_graph, strict)


def _hessian_product(
    name: str, func: Function, inputs: Any, v: Any, create_graph: bool, strict: bool
) -> tuple[Any, Any]:
    given, single = _inputs(name, inputs, create_graph)
    if strict:
        _require_dependence(name, func, given)
    directions = _vectors(name, v, given)
    gradient = functions.value_and_grad(_scalar(name, func), tuple(range(len(given))))

    def gradients(*args: Any) -> tuple[Any, Any]:
        found, value = gradient(*args)
        return found, value

    _, pull_back, value = functions.vjp(gradients, *given, has_aux=True)
    product = pull_back(*directions)  # the Hessian is symmetric
    return _results((value, product[0] if single else product), create_graph)


# arguments and results -------------------------------------------------------------------


def _inputs(name: str, inputs: Any, create_graph: bool) -> tuple[tuple[Any, ...], bool]:
    single = isinstance(inputs, Tensor)
    given = (inputs,) if single else tuple(inputs)
    for position, tensor in enumerate(given):
        if not isinstance(tensor, Tensor):
            raise TypeError(
                f"The inputs given to {name} must be either a Tensor or a tuple of Tensors but the "
                f"value at index {position} has type {type(tensor)}."
            )
    return given if create_graph else tuple(t.detach() for t in given), single


def _by_strategy(strategy: str) -> Callable[..., Any]:
    known: dict[str, Callable[..., Any]] = {
        "reverse-mode": functions.jacrev,
        "forward-mode": functions.jacfwd,
    }
    if strategy not in known:
        raise AssertionError(
            'Expected strategy to be either "forward-mode" or "reverse-mode". Hint: If your '
            'function has more outputs than inputs, "forward-mode" tends to be more performant. '
            'Otherwise, prefer to use "reverse-mode".'
        )
    return known[strategy]


def _scalar(name: str, func: Function) -> Function:
    """``func`` whose result of one element has no dimensions."""

    def scalar(*args: Any) -> Any:
        result = func(*args)
        if not isinstance(result, Tensor) or result.shape.numel() != 1:
            raise RuntimeError(
                f"The function given to {name} should return a single Tensor with one element "
                f"(at {user_location()})"
            )
        return result.reshape(())

    return scalar


def _vectors(name: str, v: Any, like: Any) -> tuple[Any, ...]:
    tensors = (like,) if isinstance(like, Tensor) else tuple(like)
    if v is None:
        if len(tensors) != 1 or tensors[0].shape.numel() != 1:
            raise RuntimeError(
                f"{name}: the vector v can only be None if the function's input or output is a "
                "single Tensor with one element."
            )
        return (tensors[0].new_ones(tensors[0].shape),)
    vectors = (v,) if isinstance(v, Tensor) else tuple(v)
    if len(vectors) != len(tensors):
        raise RuntimeError(
            f"{name}: v is a tuple of invalid length: should be {len(tensors)} but got "
            f"{len(vectors)}."
        )
    for position, (vector, tensor) in enumerate(zip(vectors, tensors, strict=True)):
        if vector.shape != tensor.shape:
            raise RuntimeError(
                f"{name}: v has invalid size: entry {position} should be {tensor.shape} but got "
                f"{vector.shape}."
            )
    return vectors


def _require_dependence(name: str, func: Function, given: tuple[Any, ...]) -> None:
    """RuntimeError unless every output depends on every input."""
    with enable_grad():
        tracked = [t.detach().requires_grad_() for t in given]
        result = func(*tracked)
        for i, output in enumerate((result,) if isinstance(result, Tensor) else result):
            found = (
                grad(output.sum(), tracked, retain_graph=True, allow_unused=True)
                if output.requires_grad
                else [None]
            )
            for j, gradient in enumerate(found):
                if gradient is None:
                    raise RuntimeError(
                        f"{name}: output {i} of the function is independent of input {j}. This is "
                        "not allowed in strict mode."
                    )


def _results(found: Any, create_graph: bool) -> Any:
    if create_graph:
        return found
    return map_leaves(lambda t: t.detach() if isinstance(t, Tensor) else t, found)
