"""``Function``: operations whose derivative the user writes.

Eager, ``apply`` puts one node on the tape whose rule calls ``backward``. While a function
is compiled, ``backward`` is run once on stand-ins for the gradients, right after ``forward``;
what it computed is kept as a rule in IR (``ir.custom``), so a compiled program needs no
Python for it, and derivatives of any order follow from backward's own operations.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from flamec.autograd.function_batching import with_batching_rule
from flamec.autograd.rules import apply_recorded, draws_postponed, record_nodes
from flamec.dispatch import apply, apply_named, tensor_builder
from flamec.errors import CompileError, OperationTypeError, user_location
from flamec.ir.builder import Builder
from flamec.ir.custom import custom_op, derivative_of
from flamec.ir.op import DerivativeContext, Op, OpKind, Types
from flamec.ir.shape import equal, format_shape
from flamec.state import enable_grad, no_grad, thread
from flamec.tape import Packed, Saved, keep, record, restore, tape_value
from flamec.tensor import Tensor

__all__ = ["Function", "FunctionCtx", "once_differentiable"]

ByPosition = Sequence[Any] | Mapping[int, Any]


class FunctionCtx:
    """What ``forward`` keeps for ``backward``; attributes of any name may be added.

    ``needs_input_grad``: for each argument whether it wants a gradient.
    """

    needs_input_grad: tuple[bool, ...]

    def __init__(self, function: type[Function]) -> None:
        self._function = function
        self._to_save: tuple[Tensor | None, ...] = ()
        self._non_differentiable: tuple[Tensor, ...] = ()
        self._materialize = True
        self._read_saved: Callable[[], tuple[Any, ...]] | None = None

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep tensors (or None) for ``backward``, where they are ``ctx.saved_tensors``."""
        for tensor in tensors:
            if tensor is not None and not isinstance(tensor, Tensor):
                raise TypeError(
                    "save_for_backward can only save variables, but argument "
                    f"{tensors.index(tensor)} is of type {type(tensor).__name__}"
                )
        self._to_save = tensors

    save_for_forward = save_for_backward

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        """What ``save_for_backward`` was given; RuntimeError if changed in place since."""
        return self._to_save if self._read_saved is None else self._read_saved()

    def mark_non_differentiable(self, *args: Tensor) -> None:
        """Say that results are not differentiable: they will not require grad."""
        self._non_differentiable = args

    def mark_dirty(self, *args: Tensor) -> NoReturn:
        """Not supported: RuntimeError."""
        raise RuntimeError(
            f"{self._function.__name__}: mark_dirty is not supported; return a new tensor instead "
            f"of an argument that was changed in place (at {user_location()})"
        )

    def set_materialize_grads(self, value: bool) -> None:
        """Whether gradients that did not arrive are zeros (the default) or None."""
        self._materialize = value


class Function:
    """An operation with a derivative of its own; subclass it and call ``apply``.

    ``forward(ctx, *args)`` computes the results, or ``forward(*args)`` together with
    ``setup_context(ctx, inputs, output)``. ``backward(ctx, *gradients)`` gives a gradient
    or None for each argument of ``forward``. Nothing that ``forward`` does is recorded.
    """

    @staticmethod
    def forward(*args: Any, **kwargs: Any) -> Any:
        """The results: a tensor, or a tuple of tensors and anything else."""
        raise NotImplementedError(
            "You must implement the forward function for custom autograd.Function."
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> Any:
        """Keep what ``backward`` needs, if ``forward`` takes no ``ctx``."""
        raise NotImplementedError("setup_context is not implemented.")

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        """A gradient or None for each argument of ``forward``."""
        raise NotImplementedError(
            "You must implement the backward function for custom autograd.Function."
        )

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        """The results for a batch, and where the batch is in each of them.

        ``info``: ``batch_size`` and ``randomness``; ``in_dims``: for each argument 0 if it has
        the batch, first, or None. Without it, ``vmap`` batches what ``forward`` does.
        """
        raise NotImplementedError(
            "To use autograd.Function with vmap, you must either override the vmap staticmethod "
            "or set generate_vmap_rule=True."
        )

    @staticmethod
    def jvp(ctx: Any, *grad_inputs: Any) -> Any:
        """The tangents of the results, given those of the arguments (None for what has none).

        Asked only of a class without ``backward``: the gradient is then the transpose of this
        linear map. A class with ``backward`` needs no ``jvp``, as forward mode comes from it.
        """
        raise NotImplementedError(
            "You must implement the jvp function for custom autograd.Function to use it with "
            "forward mode AD."
        )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError(
            f"{type(self).__name__} should not be instantiated. Methods on autograd functions are "
            "all static, so you should invoke them on the class itself: Function.apply(...)"
        )

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """The results of ``forward``, with ``backward`` as their derivative."""
        ctx = FunctionCtx(cls)
        recording = thread.grad_enabled
        ctx.needs_input_grad = tuple(isinstance(a, Tensor) and a.requires_grad for a in args)
        with no_grad():
            if cls.setup_context is not Function.setup_context:
                result = cls.forward(*args)
                cls.setup_context(ctx, args, result)
            else:
                result = cls.forward(ctx, *args)
        outputs = list(result) if isinstance(result, tuple) else [result]
        if recording and any(ctx.needs_input_grad):
            outputs = _with_history(_Call(cls, ctx, args, outputs), outputs)
        randomness = None if thread.trace is None else thread.trace.batch_randomness
        if randomness is not None and cls.vmap is not Function.vmap:
            outputs = with_batching_rule(cls, args, outputs, randomness)
        return tuple(outputs) if isinstance(result, tuple) else outputs[0]


class _Call:
    """One application that is to be differentiated."""

    def __init__(
        self, function: type[Function], ctx: FunctionCtx, args: Sequence[Any], outputs: list[Any]
    ) -> None:
        self.name = function.__name__
        self.function = function
        self.backward = function.backward
        if self.backward is Function.backward and function.jvp is not Function.jvp:
            self.backward = self.transposed
            self.forward_rule = function.jvp
        self.ctx = ctx
        self.arguments = [i for i, a in enumerate(args) if isinstance(a, Tensor)]
        self.argument_count = len(args)
        self.tensors: list[Tensor] = [args[i] for i in self.arguments]
        excluded = ctx._non_differentiable
        self.results = [
            i
            for i, t in enumerate(outputs)
            if isinstance(t, Tensor)
            and t.dtype.is_floating_point
            and not any(t is other for other in excluded)
        ]
        self.tensor_types = [t._type for t in self.tensors]
        self.types = [t._type if isinstance(t, Tensor) else None for t in outputs]

    def gradients(self, incoming: Sequence[Tensor | None]) -> list[Tensor | None]:
        """What the user's rule gives for each tensor argument, given gradients of ``results``."""
        by_output: list[Tensor | None] = [None] * len(self.types)
        for position, gradient in zip(self.results, incoming, strict=True):
            by_output[position] = gradient
        if self.ctx._materialize:
            for position, type in enumerate(self.types):
                if by_output[position] is None and type is not None:
                    by_output[position] = tensor_builder.full_like(0, type)
        found = self.backward(self.ctx, *by_output)
        given = list(found) if isinstance(found, (tuple, list)) else [found]
        while len(given) > self.argument_count and given[-1] is None:
            given.pop()
        if len(given) != self.argument_count:
            raise RuntimeError(
                f"function {self.name} returned an incorrect number of gradients (expected "
                f"{self.argument_count}, got {len(given)})"
            )
        for position, gradient in enumerate(given):
            if gradient is not None and position not in self.arguments:
                raise RuntimeError(
                    f"function {self.name} returned a gradient different from None at position "
                    f"{position + 1}, but the corresponding forward input was not a tensor"
                )
        return [
            self._fitting(p, given[p], t)
            for p, t in zip(self.arguments, self.tensor_types, strict=True)
        ]

    def transposed(self, ctx: Any, *incoming: Any) -> list[Any]:
        """``backward`` of a class that has ``jvp`` alone, which is linear in the tangents."""
        from flamec.autograd.engine import grad

        recording = thread.grad_enabled
        with enable_grad():
            tangents = {
                place: tensor_builder.full_like(0.0, type).requires_grad_()
                for place, type in zip(self.arguments, self.tensor_types, strict=True)
                if type.dtype.is_floating_point
            }
            given = [tangents.get(i) for i in range(self.argument_count)]
            found = self.forward_rule(ctx, *given)
            outputs = list(found) if isinstance(found, (tuple, list)) else [found]
            pairs = [
                (o, g)
                for o, g in zip(outputs, incoming, strict=True)
                if isinstance(o, Tensor) and o.requires_grad and g is not None
            ]
            gradients = grad(
                [o for o, _ in pairs],
                list(tangents.values()),
                [g for _, g in pairs],
                create_graph=recording,
                allow_unused=True,
            )
        by_place = dict(zip(tangents, gradients, strict=True))
        return [by_place.get(i) for i in range(self.argument_count)]

    def _fitting(self, position: int, gradient: Any, type: Any) -> Tensor | None:
        """A gradient in the shape and dtype of its argument."""
        if gradient is None:
            return None
        if not isinstance(gradient, Tensor):
            raise OperationTypeError(
                f"function {self.name}: gradient {position} is a {gradient.__class__.__name__}, "
                "not a tensor or None"
            )
        if not type.dtype.is_floating_point:
            return None
        have, want = gradient._type.shape, type.shape
        missing = len(have) - len(want)
        if missing < 0 or not all(
            equal(h, w) or equal(w, 1) for h, w in zip(have[missing:], want, strict=True)
        ):
            raise RuntimeError(
                f"Function {self.name} returned an invalid gradient at index {position} - got "
                f"{format_shape(have)} but expected shape compatible with {format_shape(want)}"
            )
        fitting: Tensor = tensor_builder.cast(tensor_builder.sum_to(gradient, want), type.dtype)
        return fitting

    def once(self, found: list[Tensor | None], incoming: Sequence[Any]) -> list[Tensor | None]:
        """``found``, of which no further derivative can be taken."""
        present = [g for g in found if g is not None]
        if not getattr(self.backward, "_once_differentiable", False) or not present:
            return found
        sources = [g for g in incoming if g is not None]
        marked = iter(attach_rule(f"{self.name}Backward", present, sources, _refuse_second))
        return [None if g is None else next(marked) for g in found]


def _with_history(call: _Call, outputs: list[Any]) -> list[Any]:
    """``outputs`` with the user's derivative."""
    fresh = list(outputs)
    for position, output in enumerate(outputs):
        if isinstance(output, Tensor) and (
            any(output is t for t in call.tensors) or output.requires_grad
        ):
            fresh[position] = apply_named("detach", output)
    results = [fresh[p] for p in call.results]
    if not results:
        return fresh
    kept = _Kept(call, outputs)
    if thread.trace is not None:
        results = _traced(call, kept, results)
        for position, result in zip(call.results, results, strict=True):
            fresh[position] = result
        call.tensors = []
        return fresh

    def rule(b: Builder, context: DerivativeContext, *incoming: Any) -> Any:
        call.ctx._read_saved = lambda: kept.read(context.inputs, context.outputs)
        try:
            return call.once(call.gradients(incoming), incoming)
        finally:
            call.ctx._read_saved = _refuse_read

    op = Op(
        name=call.name,
        kind=OpKind.CALL,
        infer=_not_inferred,
        evaluate=_not_inferred,
        derivative=rule,
        saves_inputs=kept.inputs,
        saves_outputs=kept.outputs,
    )
    record(op, call.tensors, {}, results)
    call.tensors = []
    return fresh


class _Kept:
    """Where each saved tensor is found: an argument, a result, or kept here."""

    def __init__(self, call: _Call, outputs: Sequence[Any]) -> None:
        ctx = call.ctx
        self.places: list[tuple[str, int]] = []
        self.others: list[Saved | Packed | Tensor] = []
        for tensor in ctx._to_save:
            place = ("none", 0)
            for position, output in enumerate(outputs):
                if tensor is not None and tensor is output and position in call.results:
                    place = ("output", call.results.index(position))
            for position, argument in enumerate(call.tensors):
                if tensor is argument:
                    place = ("input", position)
            if tensor is not None and place[0] == "none":
                place = ("other", len(self.others))
                tracing = thread.trace is not None
                self.others.append(tensor if tracing else keep(tensor, tape_value(tensor)))
            self.places.append(place)
        self.inputs = self._positions("input")
        self.outputs = self._positions("output")
        self.name = call.name
        self.location = user_location()
        ctx._to_save = ()
        ctx._non_differentiable = ()
        ctx._read_saved = _refuse_read

    def _positions(self, kind: str) -> tuple[int, ...]:
        return tuple(sorted({p for k, p in self.places if k == kind}))

    def read(self, inputs: Sequence[Any], outputs: ByPosition) -> tuple[Any, ...]:
        return tuple(self._one(kind, p, inputs, outputs) for kind, p in self.places)

    def _one(self, kind: str, position: int, inputs: Sequence[Any], outputs: ByPosition) -> Any:
        if kind == "none":
            return None
        if kind == "other":
            other = self.others[position]
            if isinstance(other, Tensor):
                return other
            return restore(other, self.name, self.location, other.value)
        return inputs[position] if kind == "input" else outputs[position]


def _refuse_read() -> NoReturn:
    raise RuntimeError("ctx.saved_tensors is available in backward only")


def _not_inferred(*_: Any) -> Types:
    raise AssertionError("a custom function is recorded with its result types given")


# while tracing -----------------------------------------------------------------------------

_MOST_ORDERS = 3  # of a function whose backward applies it again: each is traced within the last


def _traced(call: _Call, kept: _Kept, results: list[Tensor]) -> list[Tensor]:
    """Run ``backward`` on stand-ins and attach what it emitted as the derivative."""
    trace = thread.trace
    assert trace is not None
    around = trace.backwards_in_progress
    if around.count(call.function) == _MOST_ORDERS:
        return attach_rule(call.name, results, call.tensors, _raising(_too_many_orders(call.name)))
    nodes = trace.builder.nodes
    start = len(nodes)
    with trace.without_values():
        seeds = [tensor_builder.full_like(0, t._type) for t in results]
    stand_ins = [apply_named("convert", results[p], dtype=results[p].dtype) for p in kept.outputs]
    by_result = dict(zip(kept.outputs, stand_ins, strict=True))
    gradient_values = [trace.value_of(t) for t in seeds]
    output_values = [trace.value_of(t) for t in stand_ins]
    trace.tracked.update((*gradient_values, *output_values))
    inputs = list(call.tensors)
    call.ctx._read_saved = lambda: kept.read(inputs, by_result)
    around.append(call.function)
    try:
        with enable_grad(), trace.without_values(), draws_postponed(trace) as drawn:
            found = call.once(call.gradients(seeds), seeds)
            for gradient in found:  # views become nodes now
                if gradient is not None:
                    trace.value_of(gradient)
    except (NotImplementedError, RuntimeError) as error:
        if isinstance(error, CompileError):
            raise
        return attach_rule(call.name, results, inputs, _raising(error))
    finally:
        around.pop()
        call.ctx._read_saved = _refuse_read
    trace.freed.difference_update(map(id, nodes[start:]))  # made anew for each backward pass
    rule = record_nodes(nodes[start:], gradient_values, output_values, found, drawn)
    count = len(results)
    operands = [trace.tensor_of(v) for v in rule.operands]
    first = count + len(inputs)
    op = custom_op(
        call.name,
        count,
        _selecting(derivative_of(rule, count, len(inputs), apply_recorded), kept.outputs),
        tuple(range(first, first + len(operands))),
        kept.outputs,
    )
    attributes = {"sizes": rule.symbolic_sizes}
    found_outputs = apply(op, [*results, *inputs, *operands], attributes)
    return list(found_outputs) if isinstance(found_outputs, tuple) else [found_outputs]


def _too_many_orders(name: str) -> RuntimeError:
    return RuntimeError(
        f"the backward of {name} applies {name} again, perhaps by way of another function: "
        f"compiled, it has derivatives up to order {_MOST_ORDERS} (at {user_location()})"
    )


def _selecting(derivative: Any, positions: Sequence[int]) -> Any:
    """``derivative`` given only those outputs that it reads."""

    def rule(b: Builder, ctx: DerivativeContext, *gradients: Any) -> Any:
        chosen = DerivativeContext(
            ctx.attributes,
            ctx.inputs,
            [ctx.outputs[p] for p in positions],
            ctx.input_types,
            ctx.output_types,
            ctx.needs,
        )
        return derivative(b, chosen, *gradients)

    return rule


def attach_rule(
    name: str,
    results: Sequence[Tensor],
    sources: Sequence[Tensor],
    rule: Any,
    operands: Sequence[Tensor] = (),
    sizes: tuple[Any, ...] = (),
) -> list[Tensor]:
    """``results`` whose derivative by ``sources`` is ``rule``.

    In a trace the rule gives gradients for results, sources and ``operands``, which it reads
    after them in ``ctx.inputs``; eager for sources alone.
    """
    if thread.trace is not None:
        first = len(results) + len(sources)
        op = custom_op(name, len(results), rule, tuple(range(first, first + len(operands))))
        found = apply(op, [*results, *sources, *operands], {"sizes": sizes})
        return list(found) if isinstance(found, tuple) else [found]
    fresh = [apply_named("detach", r) for r in results]
    if thread.grad_enabled:
        op = Op(name, OpKind.CALL, _not_inferred, _not_inferred, rule)
        record(op, sources, {}, fresh)
    return fresh


def _raising(error: Exception) -> Any:
    def rule(b: Builder, ctx: DerivativeContext, *gradients: Any) -> NoReturn:
        raise error

    return rule


def _refuse_second(b: Builder, ctx: DerivativeContext, *gradients: Any) -> NoReturn:
    raise RuntimeError(
        "trying to differentiate twice a function that was marked with @once_differentiable"
    )


def once_differentiable(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate ``backward``: nothing in it is recorded, and no second derivative is given."""

    @functools.wraps(fn)
    def wrapper(ctx: Any, *args: Any) -> Any:
        with no_grad():
            return fn(ctx, *args)

    made: Any = wrapper
    made._once_differentiable = True
    return made
