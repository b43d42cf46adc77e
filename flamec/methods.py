"""Tensor methods: the functions of ``flamec.functional`` attached to the class, from tables.

A module with methods exports ``TENSOR_METHODS`` (name -> function of the tensor) and,
where it has them, ``IN_PLACE`` (names that also exist with a trailing underscore)
and ``TENSOR_PROPERTIES``. Operators are listed here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

import numpy as np

from flamec import (
    autograd,
    conversion,
    fusing,
    memory,
    number_operators,
    pinning,
    printing,
    resizing,
    standard_methods,
    type_names,
    values,
)
from flamec.arithmetic_in_place import direct_form
from flamec.autograd import hooks
from flamec.dispatch import apply_named, write
from flamec.errors import OperationError, user_location
from flamec.functional import (
    activation,
    added_products,
    arithmetic,
    comparison,
    decompositions,
    diagonals,
    distance,
    elementwise,
    gathering,
    indexing,
    joining,
    linear_systems,
    masking,
    matrix,
    matrix_functions,
    number_parts,
    order_statistics,
    polygamma,
    reduction,
    reflections,
    reordering,
    repeating,
    sampling,
    scan,
    searching,
    shape,
    slice_updates,
    softmax,
    sorting,
    special_methods,
    statistics,
    strided,
    unary,
    uniqueness,
)
from flamec.functional.arguments import stored_dtype
from flamec.functional.autocasting import without_autocast
from flamec.functional.promotion import is_number
from flamec.ir.op import lookup
from flamec.ir.shape import format_shape, structural_key
from flamec.ir.types import CPU
from flamec.state import process, thread
from flamec.tape import cut_off
from flamec.tensor import Tensor

MODULES: tuple[ModuleType, ...] = (
    pinning,
    type_names,
    arithmetic,
    unary,
    elementwise,
    number_parts,
    polygamma,
    special_methods,
    comparison,
    activation,
    softmax,
    reduction,
    reflections,
    statistics,
    scan,
    sorting,
    order_statistics,
    searching,
    uniqueness,
    sampling,
    matrix,
    added_products,
    decompositions,
    linear_systems,
    matrix_functions,
    shape,
    reordering,
    repeating,
    joining,
    diagonals,
    strided,
    distance,
    indexing,
    gathering,
    slice_updates,
    masking,
    conversion,
    values,
    memory,
    resizing,
    standard_methods,
    printing,
)


def attach(name: str, function: Callable[..., Any]) -> None:
    """Make ``function`` the method ``name`` of Tensor; its first argument is the tensor."""
    setattr(Tensor, name, function)


# in-place forms --------------------------------------------------------------------------


def in_place(name: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The method that stores the result of ``function`` in the tensor itself.

    It raises RuntimeError if the result has another shape than the tensor, or a dtype
    of a higher kind.
    """

    function = without_autocast(function)
    keeps_operand = function in _SAVING_NO_OPERAND
    ways = _short_ways(name, function)

    @functools.wraps(function)
    def method(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        for way in ways:
            if way(self, *args, **kwargs):
                return self
        source = self if keeps_operand else old_value(self, (*args, *kwargs.values()))
        return replace_contents(name, self, function(source, *args, **kwargs))

    method.__name__ = method.__qualname__ = name
    method.__doc__ = f"In-place form of ``{name.rstrip('_')}``."
    return method


def _short_ways(name: str, function: Callable[..., Tensor]) -> list[Callable[..., bool]]:
    """What tries to compute a function into its first argument's memory."""
    program = fusing.in_place(function, functools.partial(replace_contents, name))
    direct = _DIRECT.get(function) or direct_form(function)
    return [program] if direct is None else [direct, program]


_DIRECT: Mapping[Callable[..., Tensor], Callable[..., bool]] = {
    masking.masked_fill: masking.masked_fill_into,
    without_autocast(gathering.index_put): gathering.index_put_into,
}

# add and sub are linear: their derivatives read no operand
_SAVING_NO_OPERAND = (arithmetic.add, arithmetic.sub)


def old_value(target: Tensor, others: Iterable[Any] = ()) -> Tensor:
    """What an in-place form computes from: a copy if a derivative may need the old contents."""
    if thread.trace is not None or not thread.grad_enabled:
        return target
    operands = (target, *(x for x in others if isinstance(x, Tensor)))
    return unary.copied(target) if any(x.requires_grad for x in operands) else target


def replace_contents(name: str, target: Tensor, result: Tensor) -> Tensor:
    """Store ``result`` in ``target``, converted to its dtype; returns ``target``."""
    have, want = result._type.shape, target._type.shape
    if have is not want and structural_key(have) != structural_key(want):
        raise OperationError(
            f"{name}(): output with shape {format_shape(want)} doesn't match the broadcast shape "
            f"{format_shape(have)} (at {user_location()})"
        )
    return write(target, stored_dtype(result, target), name)


# operators -------------------------------------------------------------------------------

_COMPARISONS: Mapping[str, Callable[..., Tensor]] = {
    name: getattr(comparison, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")
}
_UNARY: Mapping[str, Callable[..., Tensor]] = {
    **number_operators.UNARY,
    "invert": comparison.bitwise_not,
}

_ALIKE = {"add": "add", "sub": "sub", "mul": "mul", "truediv": "div"}

_REFLECTED: Mapping[str, Callable[..., Tensor]] = {"truediv": arithmetic.reflected_divide}


def _operand(value: Any) -> Any:
    """``value`` if an operator takes it, NumPy arrays as tensors; else NotImplemented."""
    if isinstance(value, Tensor) or is_number(value):
        return value
    if isinstance(value, np.ndarray):
        return conversion.as_tensor(value, device=CPU)
    return NotImplemented


def _forward(
    function: Callable[..., Tensor], alike: str | None = None
) -> Callable[[Tensor, Any], Any]:
    """``alike``: the operation that the function is for operands that take no promotion."""
    op = None if alike is None else lookup(alike)

    def operator(self: Tensor, other: Any) -> Any:
        if op is not None:
            result = arithmetic.apply_alike(op, self, other)
            if result is not None:
                return result
        if not isinstance(other, Tensor):
            other = _operand(other)
            if other is NotImplemented:
                return NotImplemented
        return function(self, other)

    return operator


def _reflected(function: Callable[..., Tensor]) -> Callable[[Tensor, Any], Any]:
    def operator(self: Tensor, other: Any) -> Any:
        other = _operand(other)
        return NotImplemented if other is NotImplemented else function(other, self)

    return operator


def _updating(name: str, function: Callable[..., Tensor]) -> Callable[[Tensor, Any], Any]:
    function = without_autocast(function)
    keeps_operand = function in _SAVING_NO_OPERAND
    ways = _short_ways(name, function)

    def operator(self: Tensor, other: Any) -> Any:
        for way in ways:
            if way(self, other):
                return self
        other = _operand(other)
        if other is NotImplemented:
            return NotImplemented
        source = self if keeps_operand else old_value(self, (other,))
        return replace_contents(name, self, function(source, other))

    return operator


def _matmul(self: Tensor, other: Any) -> Any:
    other = _operand(other)
    return matrix.matmul(self, other) if isinstance(other, Tensor) else NotImplemented


def _reflected_matmul(self: Tensor, other: Any) -> Any:
    other = _operand(other)
    return matrix.matmul(other, self) if isinstance(other, Tensor) else NotImplemented


def _attach_operators() -> None:
    attach("__matmul__", _matmul)
    attach("__rmatmul__", _reflected_matmul)
    for name, function in number_operators.ARITHMETIC.items():
        attach(f"__{name}__", _forward(function, _ALIKE.get(name)))
        attach(f"__r{name}__", _reflected(_REFLECTED.get(name, function)))
        attach(f"__i{name}__", _updating(f"__i{name}__", function))
    for name, function in _COMPARISONS.items():
        attach(f"__{name}__", _forward(function, name))
    for name, function in _UNARY.items():
        attach(f"__{name}__", function)


# autograd ----------------------------------------------------------------------------------


def _backward(
    self: Tensor,
    gradient: Tensor | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Any = None,
) -> None:
    """Accumulate gradients in the leaves that this tensor depends on; see ``autograd.backward``."""
    autograd.backward(self, gradient, retain_graph, create_graph, inputs)


def detach(self: Tensor) -> Tensor:
    """A view of the same memory through which no gradient flows."""
    if thread.trace is None and process.recorder is None and self._array is not None:
        steps = (*self._steps, cut_off(self._type))  # nothing is computed or recorded
        return Tensor._from_array(self._array, self._type, self._storage, steps)
    return apply_named("detach", self)


def _requires_grad_(self: Tensor, requires_grad: bool = True) -> Tensor:
    """Set ``requires_grad`` of a leaf; returns the tensor."""
    self.requires_grad = requires_grad
    return self


# attaching ---------------------------------------------------------------------------------


def _attach_module(module: ModuleType) -> None:
    methods: Mapping[str, Callable[..., Any]] = getattr(module, "TENSOR_METHODS", {})
    for name, function in methods.items():
        attach(name, function)
    for name, function in getattr(module, "TENSOR_PROPERTIES", {}).items():
        setattr(Tensor, name, function if isinstance(function, property) else property(function))
    changing: Iterable[str] = getattr(module, "IN_PLACE", ())
    for name in changing:
        attach(f"{name}_", in_place(f"{name}_", methods[name]))


def _attach_all() -> None:
    for module in MODULES:
        _attach_module(module)
    _attach_operators()
    attach("backward", _backward)
    attach("requires_grad_", _requires_grad_)
    attach("detach", detach)
    attach("retain_grad", autograd.retain_grad)
    attach("register_hook", hooks.register_hook)
    attach("register_post_accumulate_grad_hook", hooks.register_post_accumulate_grad_hook)


_attach_all()

# functions of the package that change their first argument: the methods of these names
IN_PLACE_FUNCTIONS = (
    "abs_", "acos_", "acosh_", "addmv_", "arccos_", "arccosh_", "arcsin_", "arcsinh_",
    "arctan_", "arctanh_", "as_strided_", "asin_", "asinh_", "atan_", "atanh_", "ceil_",
    "clamp_", "clamp_max_", "clamp_min_", "clip_", "conj_physical_", "cos_", "cosh_",
    "deg2rad_", "erf_", "erfc_", "exp2_", "exp_", "expm1_", "fill_", "fix_", "floor_", "frac_",
    "gcd_", "i0_", "index_put_", "lcm_", "ldexp_", "log10_", "log1p_", "log2_", "log_", "logit_",
    "nan_to_num_", "neg_", "negative_", "rad2deg_", "reciprocal_", "resize_as_", "round_",
    "rsqrt_", "sigmoid_", "sin_", "sinc_", "sinh_", "sqrt_", "square_", "tan_", "tanh_",
    "trunc_", "xlogy_", "zero_",
)  # fmt: skip

number_operators.attach_operators()
