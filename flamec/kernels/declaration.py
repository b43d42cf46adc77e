"""``@flamec.kernel``: declare an operation whose kernels the user writes.

In: a shape rule; then forms for devices, a derivative, a batching rule. Out: an operation like
the framework's own: it is traced, differentiated, batched, cached and compiled, and what is around
it is fused. Invariant: the ``Op`` of a kernel is a value; to add a form makes a new one.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np

from flamec.dispatch import apply
from flamec.errors import OperationTypeError, user_location
from flamec.ir.batching import leading
from flamec.ir.op import Attributes, Op, OpKind, Types, register_user_op
from flamec.ir.shape import SymbolicDim, format_shape
from flamec.ir.types import CPU, TensorType, dtype_of_numpy
from flamec.ir.user_kernel import UserKernel
from flamec.kernels import c_execution
from flamec.kernels.launching import c_form, triton_form
from flamec.kernels.rules import (
    batching_rule,
    derivative_rule,
    missing_batching_rule,
    missing_derivative,
    type_name,
)
from flamec.kernels.triton_source import triton_function
from flamec.state import thread
from flamec.tensor import RuntimeNumber, Tensor

F = TypeVar("F", bound=Callable[..., Any])
Saved = tuple[int, ...] | str


class Kernel:
    """An operation whose kernels the user writes, made by ``flamec.kernel``; a callable.

    ``op`` is what stands in graphs.
    """

    def __init__(
        self, rule: Callable[..., Any], name: str | None, differentiable: bool, leading: bool
    ) -> None:
        self.name = name or rule.__name__
        if not self.name.isidentifier():
            raise ValueError(f"flamec.kernel: {self.name!r} is no name; pass name=")
        self.__doc__, self.__name__ = rule.__doc__, self.name
        self.__wrapped__ = rule
        self._rule = rule
        self._signature = inspect.signature(rule)
        self._operands = _operands(self.name, self._signature)
        code = getattr(rule, "__code__", None)
        self._declared = (str(rule.__module__), str(getattr(code, "co_filename", "")))
        self._differentiable, self._leading = differentiable, leading
        self._numpy: Callable[..., Any] | None = None
        self._c: Callable[[Types, Types, Attributes], Any] | None = None
        self._triton: Callable[[Types, Types, Attributes], Any] | None = None
        self._derivative: Callable[..., Sequence[Any]] | None = None
        self._saves: tuple[Saved, Saved] = ("all", "all")
        self._batching: Callable[..., Any] | None = None
        self._declare()

    # calling -----------------------------------------------------------------------------
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the operation: one Tensor, or a tuple.

        Raises TypeError for arguments that do not fit the signature, OperationError and its kin
        for what the shape rule refuses.
        """
        given = self._bound(args, kwargs)
        tensors = [given[name] for name in self._operands]
        for name, value in zip(self._operands, tensors, strict=True):
            if not isinstance(value, Tensor):
                raise OperationTypeError(
                    f"{self.name}: the operand {name} must be a Tensor, not {type_name(value)} "
                    f"(at {user_location()})"
                )
        rest = {name: value for name, value in given.items() if name not in self._operands}
        return apply(self.op, tensors, self.attributes(rest))

    def attributes(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Attributes as they stand in graphs. OperationTypeError for what cannot be one."""
        return {name: self._attribute(name, value) for name, value in given.items()}

    def check(self, *operands: Tensor, **attributes: Any) -> list[str]:
        """Compare forms, derivative and batching rule with each other; gives what was checked.

        Operands on the CPU: the C form with the NumPy form; on a GPU: the Triton form with that on
        the CPU; the compiled kernel; ``vmap`` with calls one by one; the derivative with
        differences, in float64, which needs a NumPy form that takes it or float64 operands (of many
        elements: along one direction). AssertionError (of a derivative: GradcheckError) says what
        differs.
        """
        from flamec.kernels.checking import check

        given = self._bound(operands, attributes)
        rest = {k: v for k, v in given.items() if k not in self._operands}
        return check(self, [given[name] for name in self._operands], rest)

    @property
    def has_numpy(self) -> bool:
        """Whether there is a NumPy form."""
        return self._numpy is not None

    @property
    def has_derivative(self) -> bool:
        """Whether there is a derivative."""
        return self._derivative is not None

    @property
    def has_batching(self) -> bool:
        """Whether ``vmap`` can be applied."""
        return self._leading or self._batching is not None

    def _bound(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments by the names of the shape rule's parameters, with defaults."""
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            text = f"{self.name}{self._signature}: {error} (at {user_location()})"
            raise OperationTypeError(text) from None
        bound.apply_defaults()
        return bound.arguments

    def _attribute(self, name: str, value: Any) -> Any:
        if isinstance(value, (tuple, list)):
            return tuple(self._attribute(name, v) for v in value)
        if isinstance(value, SymbolicDim):
            return int(value)  # the program is for this number: a guard
        if isinstance(value, RuntimeNumber):  # likewise
            return value.read()
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        raise OperationTypeError(
            f"{self.name}: the argument {name} must be a number, a flag, text or a tuple of them, "
            f"not {type_name(value)} (at {user_location()})"
        )

    # declaring ---------------------------------------------------------------------------
    def numpy(self, function: F) -> F:
        """Decorator: ``function(*arrays, **attributes)`` computes the operation with NumPy.

        It gives new arrays of the promised shapes and dtypes. 16-bit floats arrive as float32, and
        float32 results are rounded to what was promised.
        """
        self._numpy = function
        self._declare()
        return function

    def c(self, text: str) -> Callable[[F], F]:
        """Decorator of ``caller(program, *operands, *results, **attributes)``, for C code ``text``.

        The caller is run once for each choice of types and says what is called:
        ``program.function(x, result, x.numel())``, or ``program.function[jobs](...)`` to divide the
        work among threads: the function's first two arguments are then ``int64_t begin, end``.
        Arrays are pointers to dense memory, integers ``int64_t``, floats ``double``.
        """

        def declare(caller: F) -> F:
            self._c = partial(c_form, self.name, text, caller, self._operands)
            self._declare()
            return caller

        return declare

    def triton(self, *functions: Any) -> Callable[[F], F]:
        """Decorator of ``caller(*kernels, *operands, *results, **attributes)``.

        ``functions``: Triton kernels, with ``@triton.jit`` or without. The caller is run once for
        each choice of types and launches them as in Triton: ``kernel[grid](x, result, x.numel(),
        BLOCK=1024, num_warps=4)``. Parameters annotated ``tl.constexpr`` are meta-parameters; the
        grid may be a function of them. TypeError for kernels whose text cannot be taken.
        """
        if not functions:
            raise TypeError(f"{self.name}.triton needs the Triton functions that are launched")
        found = [triton_function(f) for f in functions]

        def declare(caller: F) -> F:
            self._triton = partial(triton_form, found, caller, self._operands)
            self._declare()
            return caller

        return declare

    def derivative(
        self,
        function: Any = None,
        *,
        saves_inputs: Saved = "all",
        saves_outputs: Saved = "all",
    ) -> Any:
        """Decorator of ``function(ctx, *gradients)``: a gradient or None for each operand.

        It is written with flamec's operations, other kernels included, and may so be
        differentiated again. ``ctx``: ``inputs``, ``outputs``, ``attributes``,
        ``needs_input_grad``.
        ``saves_inputs``, ``saves_outputs``: positions of what it reads; the rest need not be kept.
        """
        if function is None:
            return partial(self.derivative, saves_inputs=saves_inputs, saves_outputs=saves_outputs)
        if not self._differentiable:
            raise TypeError(f"{self.name} was declared with differentiable=False")
        self._derivative = derivative_rule(self.name, function)
        self._saves = (saves_inputs, saves_outputs)
        self._declare()
        return function

    def batching(self, function: F) -> F:
        """Decorator of ``function(size, batched, *operands, **attributes)`` for ``vmap``.

        ``batched[i]``: whether the first dimension of operand i is the batch. It gives the
        results, all with the batch as first dimension, written with flamec's operations.
        """
        self._batching = batching_rule(self.name, function)
        self._declare()
        return function

    def _declare(self) -> None:
        derivative = None
        if self._differentiable:
            derivative = self._derivative or missing_derivative(self.name)
        batch = self._batching or missing_batching_rule(self.name)
        saves_inputs, saves_outputs = self._saves if self._derivative is not None else ((), ())
        self.op = register_user_op(
            Op(
                name=self.name,
                kind=OpKind.KERNEL,
                infer=self._infer,
                evaluate=self._evaluate,
                derivative=derivative,
                saves_inputs=saves_inputs,
                saves_outputs=saves_outputs,
                expensive=True,
                batch=leading if self._leading and self._batching is None else batch,
                kernel=UserKernel(self._c, self._triton, self._numpy is not None, self._declared),
                doc=inspect.getdoc(self._rule) or "",
            )
        )

    # the operation -----------------------------------------------------------------------
    def _infer(self, types: Types, attributes: Attributes) -> Types:
        """The result types by the user's rule; TypeError and ValueError name what is wrong."""
        results = self._promised(types, attributes)
        place = results[0].device
        if place.type == "cpu" and self._numpy is None and self._c is None:
            raise TypeError(
                f"{self.name} has no form for the CPU; write one with @{self.name}.numpy or "
                f"@{self.name}.c"
            )
        if place.type != "cpu" and self._triton is None:
            raise TypeError(
                f"{self.name} has no form for {place}; write one with @{self.name}.triton"
            )
        if thread.trace is not None or place.type != "cpu":  # what it asks of sizes is a guard
            form = self._c if place.type == "cpu" else self._triton
            if form is not None:
                form(types, results, attributes)
        return results

    def _promised(self, types: Types, attributes: Attributes) -> Types:
        devices = {t.device for t in types}
        if len(devices) > 1:
            raise TypeError(
                f"{self.name}: operands are on {' and '.join(sorted(map(str, devices)))}"
            )
        found = self._rule(*types, **attributes)
        results = tuple(found) if isinstance(found, (tuple, list)) else (found,)
        if not results or not all(isinstance(t, TensorType) for t in results):
            raise TypeError(
                f"{self.name}: the shape rule must return types, such as x.with_shape(...); it "
                f"returned {type_name(found)}"
            )
        return tuple(map(_with_known_sizes, results))

    def _evaluate(self, attributes: Attributes, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        """By NumPy if there is such a form, else by the C form in a program of its own."""
        types = tuple(TensorType(a.shape, dtype_of_numpy(a.dtype), CPU) for a in arrays)
        if self._numpy is None:
            if self._c is None:
                raise TypeError(
                    f"{self.name} has no form for the CPU; write one with @{self.name}.numpy or "
                    f"@{self.name}.c"
                )
            return c_execution.run(self.op, types, attributes, arrays)
        promised = self._promised(types, attributes)
        given = [_operand(array, type) for array, type in zip(arrays, types, strict=True)]
        found = self._numpy(*given, **attributes)
        results = tuple(found) if isinstance(found, (tuple, list)) else (found,)
        if len(results) != len(promised):
            raise ValueError(
                f"{self.name}: the NumPy form gave {len(results)} results, its shape rule promises "
                f"{len(promised)}"
            )
        pairs = zip(results, promised, strict=True)
        return tuple(self._result(i, r, t, given) for i, (r, t) in enumerate(pairs))

    def _result(
        self, position: int, result: Any, promised: TensorType, given: Sequence[np.ndarray]
    ) -> np.ndarray:
        array = np.asarray(result)
        if array.shape != promised.shape:
            raise ValueError(
                f"{self.name}: the NumPy form gave result {position} the shape "
                f"{list(array.shape)}; its shape rule promises {format_shape(promised.shape)}"
            )
        wanted = promised.dtype.numpy
        rounded = promised.dtype.is_half and array.dtype == np.float32
        if array.dtype != wanted and not rounded:
            raise TypeError(
                f"{self.name}: the NumPy form gave result {position} the dtype {array.dtype}; its "
                f"shape rule promises {promised.dtype.name}"
            )
        shared = any(np.may_share_memory(array, g) for g in given)
        return array.astype(wanted, copy=shared)

    def __repr__(self) -> str:
        return f"<kernel {self.name}{self._signature}>"


def _operands(name: str, signature: inspect.Signature) -> tuple[str, ...]:
    """The parameters that are tensors: those before ``*``."""
    operands = []
    for parameter in signature.parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(f"flamec.kernel: {name} must have a fixed number of operands")
        if parameter.kind is not parameter.KEYWORD_ONLY:
            operands.append(parameter.name)
    if not operands:
        raise TypeError(f"flamec.kernel: {name} needs at least one operand")
    return tuple(operands)


def _with_known_sizes(type: TensorType) -> TensorType:
    """A type whose sizes do not vary: the program depends on what numbers of Python are."""
    if not any(isinstance(d, RuntimeNumber) for d in type.shape):
        return type
    return type.with_shape(
        tuple([operator.index(d) if isinstance(d, RuntimeNumber) else d for d in type.shape])
    )


def _operand(array: np.ndarray, type: TensorType) -> np.ndarray:
    """An operand as the NumPy form sees it: read-only, 16-bit floats as float32."""
    view = array.astype(np.float32) if type.dtype.is_half else array.view()
    view.flags.writeable = False
    return view


def kernel(
    rule: Any = None,
    *,
    name: str | None = None,
    differentiable: bool = True,
    batching: str | None = None,
) -> Any:
    """Declare an operation whose kernels you write; decorates its shape rule.

    ``rule(*operand types, **attributes)`` gives the type of the result, or a tuple of types, from
    those of the operands (``x.with_shape(...)``, ``x.with_dtype(...)``); sizes may be symbolic. Its
    parameters are the operation's: those before ``*`` are tensors, those behind it attributes
    (numbers, flags, text, tuples; other values mean another program). ``name``: in graphs, that
    of the function if None. ``differentiable=False``: gradients do not pass.
    ``batching="leading"``: under ``vmap`` all operands get the batch as one more leading dimension,
    which the kernel takes.

    Gives a ``Kernel``, whose methods ``numpy``, ``c``, ``triton``, ``derivative`` and ``batching``
    declare the rest (docs/USER_KERNELS.md).
    """
    if batching not in (None, "leading"):
        raise ValueError(f"flamec.kernel: batching must be None or 'leading', not {batching!r}")
    if rule is None:
        return partial(kernel, name=name, differentiable=differentiable, batching=batching)
    if not callable(rule):
        raise TypeError("flamec.kernel decorates a function: the shape rule")
    return Kernel(rule, name, differentiable, batching == "leading")
