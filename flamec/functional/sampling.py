"""Random tensors: uniform, normal, integers, permutations, draws from distributions.

In: sizes or tensors of parameters, and a ``generator`` (the default one unless
given). Out: new tensors, or for the names with a trailing underscore the tensor
itself with new contents. The same seed gives the same numbers eager and compiled.
No gradient flows to the parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from flamec.conversion import constant_array
from flamec.dispatch import write
from flamec.errors import OperationError, OperationTypeError, user_location
from flamec.functional.arguments import public
from flamec.functional.creation import Options
from flamec.functional.dimensions import size as one_size
from flamec.functional.dimensions import sizes
from flamec.functional.primitives import ops
from flamec.functional.promotion import constant, is_number, plain_number, require_tensor
from flamec.functional.sorting import argsort
from flamec.fusing import InPlace, fused
from flamec.ir.broadcasting import broadcast_shapes
from flamec.ir.shape import Dim, less
from flamec.ir.types import CPU, Device, DType, TensorType, int64
from flamec.random import (
    Generator,
    integer_numbers,
    normal_numbers,
    numbers_of,
    random_words,
    state_for_program,
    uniform_numbers,
)
from flamec.state import process
from flamec.tensor import Tensor
from flamec.values import concrete_array, required, within


def _require(condition: bool, name: str, message: str) -> None:
    if not condition:
        raise OperationError(f"{name}(): {message} (at {user_location()})")


def _floating(name: str, dtype: DType) -> DType:
    if not dtype.is_floating_point:
        raise OperationTypeError(f"{name}(): not defined for {dtype.name} (at {user_location()})")
    return dtype


def _drawn(name: str, given: Sequence[Any], options: dict[str, Any], draw: Any) -> Tensor:
    generator = options.pop("generator", None)
    if "size" in options:
        given = (*given, options.pop("size"))
    if not given:
        raise OperationTypeError(f"{name}() needs a size (at {user_location()})")
    settings = Options(name, **options)
    dtype = _floating(name, settings.dtype)
    return settings.finished(draw(sizes(name, given), dtype, settings.device, generator))


@public
def rand(*size: Any, **options: Any) -> Tensor:
    """Uniform numbers in [0, 1)."""
    return _drawn("rand", size, options, uniform_numbers)


@public
def randn(*size: Any, **options: Any) -> Tensor:
    """Standard normal numbers."""
    return _drawn("randn", size, options, normal_numbers)


def _integers(
    name: str, low: Any, high: Any, shape: tuple[Dim, ...], generator: Any, settings: Options
) -> Tensor:
    dtype = settings.dtype_or(int64)
    if isinstance(low, int) and isinstance(high, int):
        _require(low < high, name, f"expects low < high, got low={low} and high={high}")
        _require_range(name, low, high, dtype)
    numbers = integer_numbers(low, high, shape, dtype, settings.device, generator)
    return settings.finished(numbers)


def _require_range(name: str, low: int, high: int, dtype: DType) -> None:
    if dtype.is_floating_point:
        return
    least, greatest = 0, 1
    if dtype.kind != "bool":
        bounds = np.iinfo(dtype.numpy)
        least, greatest = int(bounds.min), int(bounds.max)
    _require(low >= least, name, f"low={low} is out of range for {dtype.name}")
    _require(high - 1 <= greatest, name, f"high={high} is out of range for {dtype.name}")


@public
def randint(
    low: Any = None,
    high: Any = None,
    size: Any = None,
    *,
    generator: Generator | None = None,
    **options: Any,
) -> Tensor:
    """``randint(high, size)`` or ``randint(low, high, size)``: integers in [low, high)."""
    if size is None and isinstance(high, (tuple, list)):
        low, high, size = 0, low, high
    elif high is None:
        low, high = 0, low
    elif low is None:
        low = 0
    if not isinstance(size, (tuple, list)) or high is None:
        raise OperationTypeError(
            "randint() takes (high, size) or (low, high, size) with size a tuple of ints "
            f"(at {user_location()})"
        )
    first, last = one_size("randint", low), one_size("randint", high)
    shape = sizes("randint", (size,))
    return _integers("randint", first, last, shape, generator, Options("randint", **options))


@public
def rand_like(input: Tensor, *, generator: Generator | None = None, **options: Any) -> Tensor:
    """Uniform numbers in [0, 1) in the shape and dtype of ``input``."""
    return _drawn_like("rand_like", input, options, uniform_numbers, generator)


@public
def randn_like(input: Tensor, *, generator: Generator | None = None, **options: Any) -> Tensor:
    """Standard normal numbers in the shape and dtype of ``input``."""
    return _drawn_like("randn_like", input, options, normal_numbers, generator)


def _drawn_like(
    name: str, input: Any, options: dict[str, Any], draw: Any, generator: Generator | None
) -> Tensor:
    settings = Options(name, require_tensor(name, "input", input), **options)
    dtype = _floating(name, settings.dtype)
    return settings.finished(draw(input._type.shape, dtype, settings.device, generator))


@public
def randint_like(
    input: Tensor,
    low: Any = None,
    high: Any = None,
    *,
    generator: Generator | None = None,
    **options: Any,
) -> Tensor:
    """``randint_like(input, high)`` or ``(input, low, high)``: integers, in the dtype of input."""
    settings = Options("randint_like", require_tensor("randint_like", "input", input), **options)
    if high is None:
        low, high = 0, low
    first = one_size("randint_like", 0 if low is None else low)
    last = one_size("randint_like", high)
    return _integers("randint_like", first, last, input._type.shape, generator, settings)


@public
def randperm(n: int, *, generator: Generator | None = None, **options: Any) -> Tensor:
    """The numbers 0 to n - 1 in random order, as int64: random keys of 64 bits are sorted."""
    settings = Options("randperm", **options)
    count = one_size("randperm", n)
    _require(not less(count, 0), "randperm", f"n must be nonnegative, got {n}")
    words = random_words((2, count), generator, settings.device)
    if words._trace is None and words._type.device == CPU:  # sooner than by an operation
        high, low = concrete_array(words, "randperm()")
        keys = (high.astype(np.int64) << 32) | low.view(np.uint32)
        order = constant_array(np.argsort(keys, kind="stable").astype(np.int64), settings.device)
    else:
        wide = ops.cast(words, int64)
        order = argsort(ops.bitwise_or(wide[0] << 32, wide[1] & 0xFFFFFFFF))
    return settings.finished(ops.cast(order, settings.dtype_or(int64)))


# distributions ---------------------------------------------------------------------------


@public
def normal(
    mean: Any = 0.0,
    std: Any = 1.0,
    size: Any = None,
    *,
    generator: Generator | None = None,
    **options: Any,
) -> Tensor:
    """Normal numbers with the given means and standard deviations (tensors or numbers).

    Two numbers need a ``size``.
    """
    tensors = [x for x in (mean, std) if isinstance(x, Tensor)]
    if is_number(std):
        _require(plain_number(std) >= 0, "normal", f"expects std >= 0.0, but found std {std}")
    if not tensors:
        _require(size is not None, "normal", "two numbers need a size")
        settings = Options("normal", **options)
        numbers = normal_numbers(
            sizes("normal", (size,)),
            _floating("normal", settings.dtype),
            settings.device,
            generator,
        )
        return settings.finished(_scaled(numbers, std, mean))
    for parameter in tensors:
        _floating("normal", parameter._type.dtype)
    if isinstance(std, Tensor):
        message = "normal(): expects all elements of std >= 0.0"
        std = required(ops.detach(std), lambda s: s >= 0, message)
    shape = broadcast_shapes(*(t._type.shape for t in tensors))
    first = tensors[0]._type
    scale = [_parameter(x, first.dtype) for x in (std, mean)]
    return _values_of(first.with_shape(shape), True, first.dtype, generator, "scaled", *scale)


def _parameter(value: Any, dtype: DType) -> Any:
    return ops.cast(ops.detach(value), dtype) if isinstance(value, Tensor) else value


@public
def bernoulli(
    input: Tensor, p: float | None = None, *, generator: Generator | None = None
) -> Tensor:
    """0 or 1, 1 with the probability that ``input`` gives (or p, in the shape of input)."""
    require_tensor("bernoulli", "input", input)
    dtype = input._type.dtype
    if p is None:
        _floating("bernoulli", dtype)
        message = "bernoulli(): expects probabilities in [0, 1]"
        known = required(ops.detach(input), within(0, 1), message, waits=True)
        probability: Any = ops.cast(known, dtype.compute)
    else:
        probability = _checked_probability("bernoulli", p)
    kind = dtype if dtype.is_floating_point else process.default_dtype
    return _values_of(input._type, False, kind.compute, generator, "successes", probability)


def _checked_probability(name: str, p: Any) -> Any:
    _require(is_number(p) and 0 <= p <= 1, name, f"expects p to be in [0, 1], but got p={p}")
    return p


@public
def multinomial(
    input: Tensor,
    num_samples: int,
    replacement: bool = False,
    *,
    generator: Generator | None = None,
) -> Tensor:
    """Category numbers (int64) drawn with the weights in each row of ``input``.

    Without replacement the draws of a row differ: the largest weights divided by
    exponential numbers (Efraimidis and Spirakis, "Weighted random sampling with a
    reservoir", 2006).
    """
    require_tensor("multinomial", "input", input)
    _floating("multinomial", input._type.dtype)
    _require(input.ndim in (1, 2), "multinomial", "the weights must be a vector or a matrix")
    count = int(num_samples)
    _require(count > 0, "multinomial", "cannot sample n_sample <= 0 samples")
    weights = ops.cast(ops.detach(input), input._type.dtype.compute)
    weights = _checked_weights(weights)
    categories = weights._type.shape[-1]
    if replacement:
        return _inverse_of_distribution(weights, count, generator)
    if isinstance(categories, int):
        message = "cannot sample more than the number of categories without replacement"
        _require(count <= categories, "multinomial", message)
    shape, device = weights._type.shape, weights._type.device
    uniform = uniform_numbers(shape, weights._type.dtype, device, generator)
    waiting = ops.neg(ops.log(ops.sub(1.0, uniform)))
    waiting = ops.where(ops.gt(waiting, 1e-30), waiting, 1e-30)
    keys = ops.div(weights, waiting)
    axis = input.ndim - 1
    place = ops.iota(shape=keys._type.shape, axis=axis, dtype=int64, device=keys._type.device)
    drawn = []
    for _ in range(count):
        best = ops.argmax(keys, axes=(axis,))
        best = ops.reshape(best, shape=(*best._type.shape, 1))
        drawn.append(best)
        keys = ops.where(ops.eq(place, best), -1.0, keys)
    return ops.concatenate(*drawn, axis=axis)


def _checked_weights(weights: Tensor) -> Tensor:
    message = "multinomial(): the weights must be finite and not negative"
    weights = required(weights, lambda w: (w >= 0) & (w < math.inf), message, waits=True)
    message = "multinomial(): the weights of a row have sum 0"
    return required(weights, lambda w: w.sum(-1)[..., None] > 0, message, waits=True)


def _inverse_of_distribution(weights: Tensor, count: int, generator: Generator | None) -> Tensor:
    """How many running sums of the weights are not above a uniform number."""
    *rows, categories = weights._type.shape
    axis = len(rows)
    sums = ops.cumsum(weights, axis=axis)
    total = ops.sum(weights, axes=(axis,))
    total = ops.reshape(total, shape=(*rows, 1))
    shape, device = (*rows, count), weights._type.device
    uniform = uniform_numbers(shape, weights._type.dtype, device, generator)
    level = ops.reshape(ops.mul(uniform, total), shape=(*rows, count, 1))
    passed = ops.le(ops.reshape(sums, shape=(*rows, 1, categories)), level)
    drawn = ops.sum(ops.cast(passed, int64), axes=(axis + 1,))
    last = ops.reshape(ops.argmax(sums, axes=(axis,)), shape=(*rows, 1))
    return ops.minimum(drawn, last)


# values of uniform or normal numbers ------------------------------------------------------
def _scaled(numbers: Tensor, factor: Any, term: Any) -> Tensor:
    """``numbers * factor + term``."""
    if is_number(factor) and is_number(term) and factor == 1 and term == 0:
        return numbers
    return ops.add(ops.mul(numbers, factor), term)


def _trials(numbers: Tensor, logarithm: Any) -> Tensor:
    trials = ops.ceil(ops.div(ops.log(ops.sub(1.0, numbers)), logarithm))
    return ops.where(ops.lt(trials, 1.0), 1.0, trials)


_VALUES: dict[str, Callable[..., Tensor]] = {
    "scaled": _scaled,
    "exponential": lambda u, factor: ops.mul(ops.log(ops.sub(1.0, u)), factor),
    "log_normal": lambda z, factor, term: ops.exp(_scaled(z, factor, term)),
    "cauchy": lambda u, *of: _scaled(ops.tan(ops.mul(ops.sub(u, 0.5), math.pi)), *of),
    "trials": _trials,
    "successes": ops.lt,
}


def _drawn_values(
    state: Tensor, shape: Any, dtype: DType, normal: bool, kind: DType, values: str, *of: Tensor
) -> Tensor:
    numbers = numbers_of(state, shape, kind, normal)
    return ops.cast(_VALUES[values](numbers, *of), dtype)


_drawn_at_once = fused("shape")(_drawn_values)


def _store_drawn(
    self: Tensor, state: Tensor, normal: bool, kind: DType, values: str, *of: Tensor
) -> None:
    type = self._type
    write(self, _drawn_values(state, type.shape, type.dtype, normal, kind, values, *of), values)


_drawn_in_place = InPlace(_store_drawn)


def _as_operands(parameters: Sequence[Any], kind: DType, device: Device) -> list[Tensor]:
    """Numbers are operands of a program, so that it serves all of them."""
    return [p if isinstance(p, Tensor) else constant(p, kind, device) for p in parameters]


def _values_of(
    type: TensorType, normal: bool, kind: DType, generator: Any, values: str, *of: Any
) -> Tensor:
    """``_VALUES[values]`` of uniform or normal numbers of ``kind`` and the parameters ``of``."""
    shape, dtype, device = type.shape, type.dtype, type.device
    state = state_for_program(shape, device, generator)
    if state is not None:
        given = _as_operands(of, kind, device)
        return _drawn_at_once(state, shape, dtype, normal, kind, values, *given)
    draw = normal_numbers if normal else uniform_numbers
    return ops.cast(_VALUES[values](draw(shape, kind, device, generator), *of), dtype)


def _replaced(
    self: Tensor, name: str, normal: bool, kind: DType, generator: Any, values: str, *of: Any
) -> Tensor:
    """Store what ``_values_of`` gives."""
    type = self._type
    state = state_for_program(type.shape, type.device, generator)
    if state is not None and _drawn_in_place(
        self, state, normal, kind, values, *_as_operands(of, kind, type.device)
    ):
        return self
    return write(self, _values_of(type, normal, kind, generator, values, *of), name)


def uniform_(
    self: Tensor,
    from_: float = 0,
    to: float = 1,
    *,
    generator: Generator | None = None,
    **named: Any,
) -> Tensor:
    """Uniform numbers in [from, to)."""
    low = named.pop("from", from_)
    if named:
        raise OperationTypeError(f"uniform_(): unexpected arguments {sorted(named)}")
    _require(low <= to, "uniform_", f"expects from <= to, but found from={low} > to={to}")
    kind = _floating("uniform_", self._type.dtype)
    return _replaced(self, "uniform_", False, kind, generator, "scaled", to - low, low)


def normal_(
    self: Tensor, mean: float = 0, std: float = 1, *, generator: Generator | None = None
) -> Tensor:
    """Normal numbers."""
    _require(std >= 0, "normal_", f"expects std >= 0.0, but found std {std}")
    kind = _floating("normal_", self._type.dtype)
    return _replaced(self, "normal_", True, kind, generator, "scaled", std, mean)


def exponential_(self: Tensor, lambd: float = 1, *, generator: Generator | None = None) -> Tensor:
    """Exponentially distributed numbers with rate lambd."""
    _require(lambd > 0, "exponential_", f"expects lambda > 0.0, but found lambda={lambd}")
    kind = _floating("exponential_", self._type.dtype)
    return _replaced(self, "exponential_", False, kind, generator, "exponential", -1.0 / lambd)


def log_normal_(
    self: Tensor, mean: float = 1, std: float = 2, *, generator: Generator | None = None
) -> Tensor:
    """Numbers whose logarithm is normally distributed."""
    _require(std > 0, "log_normal_", f"expects std > 0.0, but found std={std}")
    kind = _floating("log_normal_", self._type.dtype)
    return _replaced(self, "log_normal_", True, kind, generator, "log_normal", std, mean)


def cauchy_(
    self: Tensor, median: float = 0, sigma: float = 1, *, generator: Generator | None = None
) -> Tensor:
    """Numbers of the Cauchy distribution."""
    _require(sigma > 0, "cauchy_", f"expects sigma > 0.0, but found sigma={sigma}")
    kind = _floating("cauchy_", self._type.dtype)
    return _replaced(self, "cauchy_", False, kind, generator, "cauchy", sigma, median)


def geometric_(self: Tensor, p: float, *, generator: Generator | None = None) -> Tensor:
    """How many trials with success probability p it takes until the first success."""
    _require(0 < p < 1, "geometric_", f"expects p to be in (0, 1), but got p={p}")
    kind = self._type.dtype if self._type.dtype.is_floating_point else process.default_dtype
    ends = math.log1p(-p)
    return _replaced(self, "geometric_", False, kind.compute, generator, "trials", ends)


def bernoulli_(self: Tensor, p: Any = 0.5, *, generator: Generator | None = None) -> Tensor:
    """1 with probability p (a number or a tensor), else 0."""
    kind = self._type.dtype if self._type.dtype.is_floating_point else process.default_dtype
    kind = kind.compute
    if isinstance(p, Tensor):
        probability = ops.cast(ops.detach(p), kind)
    else:
        probability = _checked_probability("bernoulli_", p)
    return _replaced(self, "bernoulli_", False, kind, generator, "successes", probability)


_EXACT_INTEGERS = {"float64": 1 << 53, "float32": 1 << 24, "float16": 1 << 11, "bfloat16": 1 << 8}


def random_(
    self: Tensor, from_: Any = None, to: Any = None, *, generator: Generator | None = None
) -> Tensor:
    """Integers in [from, to), in [0, to) with one argument, else over the range of the dtype."""
    dtype = self._type.dtype
    if to is None and from_ is not None:
        from_, to = 0, from_
    if to is None:
        if dtype.kind == "bool":
            to = 2
        elif dtype.is_floating_point:
            to = _EXACT_INTEGERS[dtype.name] + 1
        else:
            to = int(np.iinfo(dtype.numpy).max) + (dtype is not int64)
    low = 0 if from_ is None else int(from_)
    _require(low < int(to), "random_", f"expects from < to, but got from={low} >= to={to}")
    _require_range("random_", low, int(to), dtype)
    shape, device = self._type.shape, self._type.device
    return write(self, integer_numbers(low, int(to), shape, dtype, device, generator), "random_")


__all__ = [
    "bernoulli", "multinomial", "normal", "rand", "rand_like", "randint", "randint_like", "randn",
    "randn_like", "randperm",
]  # fmt: skip

TENSOR_METHODS: dict[str, Callable[..., Any]] = {
    "bernoulli": bernoulli,
    "bernoulli_": bernoulli_,
    "cauchy_": cauchy_,
    "exponential_": exponential_,
    "geometric_": geometric_,
    "log_normal_": log_normal_,
    "multinomial": multinomial,
    "normal_": normal_,
    "random_": random_,
    "uniform_": uniform_,
}
