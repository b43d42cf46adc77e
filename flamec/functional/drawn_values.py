"""Random values of distributions, each a function of one uniform or normal number.

In: the type of the values, or a tensor that is to have them, and the distribution's parameters.
Out: a new tensor, or that one. In eager mode on a GPU drawing, computing and storing are a program.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from flamec.dispatch import write
from flamec.functional.primitives import ops
from flamec.functional.promotion import constant, is_number
from flamec.fusing import InPlace, fused
from flamec.ir.types import Device, DType, TensorType
from flamec.random import normal_numbers, numbers_of, state_for_program, uniform_numbers
from flamec.tensor import Tensor


def scaled(numbers: Tensor, factor: Any, term: Any) -> Tensor:
    """``numbers * factor + term``."""
    if is_number(factor) and is_number(term) and factor == 1 and term == 0:
        return numbers
    return ops.add(ops.mul(numbers, factor), term)


def _of_rate(numbers: Tensor, factor: Any) -> Tensor:
    return ops.mul(ops.log(ops.sub(1.0, numbers)), factor)


def _of_cauchy(numbers: Tensor, sigma: Any, median: Any) -> Tensor:
    angle = ops.mul(ops.sub(numbers, 0.5), math.pi)
    return scaled(ops.tan(angle), sigma, median)


def _trials(numbers: Tensor, logarithm: Any) -> Tensor:
    trials = ops.ceil(ops.div(ops.log(ops.sub(1.0, numbers)), logarithm))
    return ops.where(ops.lt(trials, 1.0), 1.0, trials)


_VALUES: dict[str, Callable[..., Tensor]] = {
    "scaled": scaled,
    "exponential": _of_rate,
    "log_normal": lambda numbers, factor, term: ops.exp(scaled(numbers, factor, term)),
    "cauchy": _of_cauchy,
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
    drawn = _drawn_values(state, self._type.shape, self._type.dtype, normal, kind, values, *of)
    write(self, drawn, values)


_drawn_in_place = InPlace(_store_drawn)


def _as_operands(parameters: Sequence[Any], kind: DType, device: Device) -> list[Tensor]:
    """Numbers are operands of a program, so that it serves all of them."""
    return [p if isinstance(p, Tensor) else constant(p, kind, device) for p in parameters]


def values_of(
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


def replaced(
    self: Tensor, name: str, normal: bool, kind: DType, generator: Any, values: str, *of: Any
) -> Tensor:
    """Store what ``values_of`` gives."""
    type = self._type
    state = state_for_program(type.shape, type.device, generator)
    if state is not None and _drawn_in_place(
        self, state, normal, kind, values, *_as_operands(of, kind, type.device)
    ):
        return self
    return write(self, values_of(type, normal, kind, generator, values, *of), name)
