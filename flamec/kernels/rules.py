"""Derivatives and batching rules that users write with flamec's operations, as rules of an op.

In: Python functions over Tensors. Out: rules over builders (``ir/op.py``, ``ir/batching.py``). The
function is run once on stand-ins for each choice of types; the graph that it gives is emitted
wherever the rule is needed: eager, while tracing, in a pass, for a batch. So a rule may be
differentiated and batched itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from flamec.errors import OperationError, OperationTypeError, user_location
from flamec.ir.batching import Operand
from flamec.ir.bodies import emitted
from flamec.ir.builder import Builder
from flamec.ir.op import Attributes, DerivativeContext, Op
from flamec.ir.passes.differentiate import NotSaved
from flamec.ir.shape import Dim, format_shape, structurally_equal
from flamec.ir.types import TensorType
from flamec.state import enable_grad
from flamec.tensor import Tensor
from flamec.traced_body import TracedBody, trace_body

_MOST_BODIES = 256


class SavedTensors(Sequence[Tensor]):
    """The operands or results that a derivative may read."""

    def __init__(self, kernel: str, what: str, tensors: Sequence[Tensor | None]) -> None:
        self._kernel, self._what, self._tensors = kernel, what, tuple(tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __getitem__(self, position: Any) -> Any:
        if isinstance(position, slice):
            return tuple(self[i] for i in range(len(self))[position])
        tensor = self._tensors[position]
        if tensor is None:
            raise OperationError(
                f"{self._kernel}: the derivative reads {self._what} {position}, which "
                f"saves_{self._what}s= leaves out (at {user_location()})"
            )
        return tensor

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))


class KernelContext(NamedTuple):
    """What a derivative knows of the call: Tensors, attributes by name, and for which operands a
    gradient is wanted."""

    inputs: SavedTensors
    outputs: SavedTensors
    attributes: Mapping[str, Any]
    needs_input_grad: tuple[bool, ...]


class TracedRules:
    """Graphs of a rule, by types and attributes; only those without symbols are kept."""

    def __init__(self) -> None:
        self._known: dict[Any, TracedBody] = {}

    def body(
        self,
        name: str,
        function: Callable[..., Any],
        types: Sequence[TensorType],
        key: Any,
        arguments: Callable[[list[Tensor]], tuple[Any, ...]],
    ) -> TracedBody:
        """The graph of ``function(*arguments(stand-ins))``."""
        full = (tuple(types), key)
        known = self._known.get(full)
        if known is not None:
            return known
        tracked = [t.dtype.is_floating_point for t in types]
        with enable_grad():
            body = trace_body(name, function, types, tracked, arguments)
        if body.captured:
            raise OperationError(
                f"{name}: a rule cannot use tensors from outside of it; make them operands (at "
                f"{user_location()})"
            )
        if all(t.is_static for t in types) and len(self._known) < _MOST_BODIES:
            self._known[full] = body
        return body


def derivative_rule(name: str, function: Callable[..., Any]) -> Callable[..., Sequence[Any]]:
    """The rule of a derivative ``function(context, *gradients of results)``."""
    rules = TracedRules()

    def derivative(b: Builder, ctx: DerivativeContext, *gradients: Any) -> Sequence[Any]:
        saved = [*ctx.inputs, *ctx.outputs]
        there = [not isinstance(v, NotSaved) for v in saved]
        seeds = [
            b.full_like(0, t) if g is None and t.dtype.is_floating_point else g
            for g, t in zip(gradients, ctx.output_types, strict=True)
        ]
        values = [v for v, has in zip(saved, there, strict=True) if has]
        values += [g for g in seeds if g is not None]
        count = len(ctx.inputs)

        def arguments(stand_ins: list[Tensor]) -> tuple[Any, ...]:
            rest = iter(stand_ins)
            tensors = [next(rest) if has else None for has in there]
            context = KernelContext(
                SavedTensors(name, "input", tensors[:count]),
                SavedTensors(name, "output", tensors[count:]),
                ctx.attributes,
                ctx.needs,
            )
            return (context, *(None if g is None else next(rest) for g in seeds))

        def checked(context: KernelContext, *given: Tensor | None) -> tuple[Any, ...]:
            return _gradients(name, function(context, *given), ctx)

        key = (tuple(sorted(ctx.attributes.items())), ctx.needs, tuple(there))
        types = [b.type_of(v) for v in values]
        body = rules.body(f"the derivative of {name}", checked, types, key, arguments)
        found = iter(emitted(b, body.graph, values, locate=False))
        return [next(found) if has else None for has in body.present]

    return derivative


def _gradients(name: str, found: Any, ctx: DerivativeContext) -> tuple[Any, ...]:
    """What a derivative gave, one entry for each operand."""
    gradients = tuple(found) if isinstance(found, (tuple, list)) else (found,)
    if len(gradients) != len(ctx.input_types):
        raise OperationError(
            f"{name}: the derivative gave {len(gradients)} gradients for "
            f"{len(ctx.input_types)} operands (at {user_location()})"
        )
    checked = []
    for position, (gradient, type) in enumerate(zip(gradients, ctx.input_types, strict=True)):
        if gradient is None or not type.dtype.is_floating_point:
            checked.append(None)
            continue
        if not isinstance(gradient, Tensor):
            raise OperationTypeError(
                f"{name}: the derivative gave a {type_name(gradient)} for operand {position} "
                f"(at {user_location()})"
            )
        have = gradient._type.shape
        if len(have) != len(type.shape) or not all(map(structurally_equal, have, type.shape)):
            raise OperationError(
                f"{name}: the derivative gave a gradient of shape {format_shape(have)} for operand "
                f"{position} of shape {format_shape(type.shape)} (at {user_location()})"
            )
        checked.append(gradient.to(type.dtype))
    return tuple(checked)


def type_name(value: Any) -> str:
    """The name of a value's type, for errors."""
    return type(value).__name__


def missing_derivative(name: str) -> Callable[..., Sequence[Any]]:
    """The rule of a kernel for which none was given: OperationError."""

    def derivative(b: Builder, ctx: DerivativeContext, *gradients: Any) -> Sequence[Any]:
        raise OperationError(
            f"{name} has no derivative; write one with @{name}.derivative, or declare it with "
            f"@flamec.kernel(differentiable=False) (at {user_location()})"
        )

    return derivative


def batching_rule(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The rule of ``function(batch size, which operands are batched, *operands, **attributes)``."""
    rules = TracedRules()

    def batch(
        b: Builder, size: Dim, op: Op, operands: Sequence[Operand], attributes: Attributes
    ) -> Any:
        flags = tuple(x.batched for x in operands)
        values = [x.value for x in operands]

        def checked(*tensors: Tensor) -> tuple[Any, ...]:
            found = function(size, flags, *tensors, **attributes)
            results = tuple(found) if isinstance(found, (tuple, list)) else (found,)
            for result in results:
                shape = result._type.shape if isinstance(result, Tensor) else ()
                if not shape or not structurally_equal(shape[0], size):
                    raise OperationError(
                        f"{name}: the batching rule must give tensors whose first dimension is the "
                        f"batch of {size}; it gave {format_shape(shape)} (at {user_location()})"
                    )
            return results

        key = (tuple(sorted(attributes.items())), flags, size)
        types = [b.type_of(v) for v in values]
        body = rules.body(f"the batching rule of {name}", checked, types, key, tuple)
        results = emitted(b, body.graph, values, locate=False)
        return tuple(results) if len(results) > 1 else results[0]

    return batch


def missing_batching_rule(name: str) -> Callable[..., Any]:
    """The rule of a kernel for which none was given: NotImplementedError."""

    def batch(
        b: Builder, size: Dim, op: Op, operands: Sequence[Operand], attributes: Attributes
    ) -> Any:
        raise NotImplementedError(
            f"{name} has no batching rule, which vmap needs; write one with @{name}.batching "
            f"(at {user_location()})"
        )

    return batch
