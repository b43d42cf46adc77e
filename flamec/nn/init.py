"""Initialisation: fill a tensor in place, by PyTorch's formulas, and return it.

``fan_in`` and ``fan_out`` count the weights of one unit: dimension 1 and 0 times
the receptive field (the further dimensions). Nothing is recorded for autograd.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np

from flamec import random
from flamec.conversion import constant_array
from flamec.dispatch import write
from flamec.errors import OperationError, user_location
from flamec.functional.primitives import ops
from flamec.ir.types import float64
from flamec.random import Generator
from flamec.state import no_grad
from flamec.tensor import Tensor

__all__ = [
    "calculate_gain",
    "constant_",
    "dirac_",
    "eye_",
    "kaiming_normal_",
    "kaiming_uniform_",
    "normal_",
    "ones_",
    "orthogonal_",
    "sparse_",
    "trunc_normal_",
    "uniform_",
    "xavier_normal_",
    "xavier_uniform_",
    "zeros_",
]


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor by which weights are scaled for a nonlinearity; ``param``: its slope."""
    linear = ["linear", "sigmoid"]
    linear += [f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3)]
    if nonlinearity in linear:
        return 1.0
    if nonlinearity == "tanh":
        return 5.0 / 3
    if nonlinearity == "relu":
        return math.sqrt(2.0)
    if nonlinearity == "selu":
        return 3.0 / 4
    if nonlinearity == "leaky_relu":
        if param is None:
            param = 0.01
        if isinstance(param, bool) or not isinstance(param, (int, float)):
            raise ValueError(f"negative_slope {param} not a valid number")
        return math.sqrt(2.0 / (1 + param**2))
    raise ValueError(f"Unsupported nonlinearity {nonlinearity}")


def _calculate_fan_in_and_fan_out(tensor: Tensor) -> tuple[int, int]:
    """Of a weight; programs with an initialisation of their own call it, by PyTorch's name."""
    shape = tensor._type.shape
    if len(shape) < 2:
        raise ValueError(
            "Fan in and fan out can not be computed for tensor with fewer than 2 dimensions"
        )
    field = math.prod(int(d) for d in shape[2:])
    return int(shape[1]) * field, int(shape[0]) * field


def _calculate_correct_fan(tensor: Tensor, mode: str) -> int:
    mode = mode.lower()
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"Mode {mode} not supported, please use one of ['fan_in', 'fan_out']")
    return _calculate_fan_in_and_fan_out(tensor)[mode == "fan_out"]


def uniform_(
    tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Generator | None = None
) -> Tensor:
    """From the uniform distribution over [a, b)."""
    with no_grad():
        return write(tensor, _numbers(False, tensor, generator, b - a, a), "uniform_")


def normal_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Generator | None = None
) -> Tensor:
    """From the normal distribution."""
    with no_grad():
        return write(tensor, _numbers(True, tensor, generator, std, mean), "normal_")


def _numbers(
    normal: bool, tensor: Tensor, generator: Generator | None, scale: float, shift: float
) -> Tensor:
    """Random numbers for ``tensor``, times ``scale`` plus ``shift``."""
    place = tensor.shape, tensor.dtype, tensor.device
    return random.scaled_numbers(normal, *place, generator, scale, shift)


def trunc_normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: Generator | None = None,
) -> Tensor:
    """From the normal distribution cut off outside [a, b], by inverting its cumulative function."""
    if a > b:
        raise OperationError(
            f"trunc_normal_(): expected a <= b, got a={a} and b={b} (at {user_location()})"
        )
    if mean < a - 2 * std or mean > b + 2 * std:
        warnings.warn(
            "mean is more than 2 std from [a, b] in nn.init.trunc_normal_. The distribution of "
            "values may be incorrect.",
            stacklevel=2,
        )

    def below(x: float) -> float:
        return (1.0 + math.erf(x / math.sqrt(2.0))) / 2.0

    low, high = below((a - mean) / std), below((b - mean) / std)
    with no_grad():
        numbers = random.uniform_numbers(tensor.shape, float64, tensor.device, generator)
        numbers = ops.add(ops.mul(numbers, 2 * (high - low)), 2 * low - 1)
        values = ops.mul(ops.erfinv(numbers), std * math.sqrt(2.0))
        values = ops.add(values, mean)
        values = ops.minimum(ops.maximum(values, a), b)
        return write(tensor, ops.cast(values, tensor._type.dtype), "trunc_normal_")


def constant_(tensor: Tensor, val: float) -> Tensor:
    """The value ``val`` everywhere."""
    with no_grad():
        value = ops.constant(float(val) if tensor.dtype.is_floating_point else val, tensor._type)
        return write(tensor, value, "constant_")


def ones_(tensor: Tensor) -> Tensor:
    """1 everywhere."""
    return constant_(tensor, 1)


def zeros_(tensor: Tensor) -> Tensor:
    """0 everywhere."""
    return constant_(tensor, 0)


def _store(tensor: Tensor, values: np.ndarray, name: str) -> Tensor:
    with no_grad():
        wanted = np.ascontiguousarray(values, tensor._type.dtype.numpy)
        return write(tensor, constant_array(wanted, tensor._type.device), name)


def eye_(tensor: Tensor) -> Tensor:
    """The identity matrix; 2 dimensions."""
    if tensor.ndim != 2:
        raise ValueError("Only tensors with 2 dimensions are supported")
    return _store(tensor, np.eye(int(tensor.shape[0]), int(tensor.shape[1])), "eye_")


def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """Convolution weights that keep their input; 3, 4 or 5 dimensions."""
    shape = tuple(int(d) for d in tensor.shape)
    if len(shape) not in (3, 4, 5):
        raise ValueError("Only tensors with 3, 4, or 5 dimensions are supported")
    if shape[0] % groups:
        raise ValueError("dim 0 must be divisible by groups")
    values = np.zeros(shape)
    per_group = shape[0] // groups
    middle = tuple(d // 2 for d in shape[2:])
    for group in range(groups):
        for d in range(min(per_group, shape[1])):
            values[(group * per_group + d, d, *middle)] = 1.0
    return _store(tensor, values, "dirac_")


def xavier_uniform_(
    tensor: Tensor, gain: float = 1.0, generator: Generator | None = None
) -> Tensor:
    """Uniform with variance gain² * 2 / (fan_in + fan_out) (Glorot and Bengio 2010)."""
    bound = math.sqrt(3.0) * gain * math.sqrt(2.0 / sum(_calculate_fan_in_and_fan_out(tensor)))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Normal with variance gain² * 2 / (fan_in + fan_out) (Glorot and Bengio 2010)."""
    std = gain * math.sqrt(2.0 / sum(_calculate_fan_in_and_fan_out(tensor)))
    return normal_(tensor, 0.0, std, generator)


def _kaiming_std(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    return calculate_gain(nonlinearity, a) / math.sqrt(_calculate_correct_fan(tensor, mode))


def _warned_empty(tensor: Tensor) -> bool:
    if 0 not in tensor._type.shape:
        return False
    warnings.warn("Initializing zero-element tensors is a no-op", stacklevel=3)
    return True


def kaiming_uniform_(
    tensor: Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    """Uniform with variance gain² / fan (He et al. 2015); ``a``: the slope of leaky_relu."""
    if _warned_empty(tensor):
        return tensor
    bound = math.sqrt(3.0) * _kaiming_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    """Normal with variance gain² / fan (He et al. 2015); ``a``: the slope of leaky_relu."""
    if _warned_empty(tensor):
        return tensor
    return normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity), generator)


def orthogonal_(tensor: Tensor, gain: float = 1, generator: Generator | None = None) -> Tensor:
    """Orthonormal rows or columns times gain (Saxe et al. 2013); at least 2 dimensions."""
    shape = tuple(int(d) for d in tensor.shape)
    if len(shape) < 2:
        raise ValueError("Only tensors with 2 or more dimensions are supported")
    if 0 in shape:
        return tensor
    rows, columns = shape[0], math.prod(shape[1:])
    tall = (max(rows, columns), min(rows, columns))
    flat = random.normal_numbers(tall, float64, generator=generator).numpy()
    q, r = np.linalg.qr(flat)
    q = q * np.where(np.diagonal(r) < 0, -1.0, 1.0)
    return _store(tensor, gain * (q.T if rows < columns else q).reshape(shape), "orthogonal_")


def sparse_(
    tensor: Tensor, sparsity: float, std: float = 0.01, generator: Generator | None = None
) -> Tensor:
    """Normal, with the fraction ``sparsity`` of each column set to 0 (Martens 2010)."""
    if tensor.ndim != 2:
        raise ValueError("Only tensors with 2 dimensions are supported")
    rows, columns = (int(d) for d in tensor.shape)
    zeros = math.ceil(sparsity * rows)
    normal_(tensor, 0.0, std, generator)
    keys = random.uniform_numbers((rows, columns), float64, generator=generator).numpy()
    order = np.argsort(np.argsort(keys, axis=0), axis=0)
    return _store(tensor, np.where(order < zeros, 0.0, tensor.detach().numpy()), "sparse_")


def _older(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function by its name without the underscore, which warns."""
    name = function.__name__

    @wraps(function)
    def initialize(*args: Any, **kwargs: Any) -> Tensor:
        warnings.warn(
            f"`nn.init.{name[:-1]}` is now deprecated in favor of `nn.init.{name}`.",
            FutureWarning,
            stacklevel=2,
        )
        return function(*args, **kwargs)

    return initialize


constant, dirac, eye, sparse = (_older(f) for f in (constant_, dirac_, eye_, sparse_))
normal, orthogonal, uniform = (_older(f) for f in (normal_, orthogonal_, uniform_))
kaiming_normal, kaiming_uniform = _older(kaiming_normal_), _older(kaiming_uniform_)
xavier_normal, xavier_uniform = _older(xavier_normal_), _older(xavier_uniform_)
