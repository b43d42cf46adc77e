"""Muon (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks")."""

from __future__ import annotations

import math
from typing import Any

from flamec.functional.matrix import matmul
from flamec.functional.primitives import ops, sum_all, widened
from flamec.ir.types import bfloat16
from flamec.optim.optimizer import Group, Optimizer, Parameters, filled_like, scalar
from flamec.optim.updates import Pairs, check_rate, moved, store
from flamec.runtime_numbers import runtime_number
from flamec.tensor import Tensor

__all__ = ["Muon"]

_ADJUSTMENTS = ("original", "match_rms_adamw")


class Muon(Optimizer):
    """Momentum whose steps are made orthogonal; for parameters that are matrices.

    ``adjust_lr_fn``: how lr depends on the matrix's shape (m, n): ``"original"`` (also None)
    sqrt(max(1, m / n)), ``"match_rms_adamw"`` 0.2 * sqrt(max(m, n)) (Liu et al. 2025).
    The iteration runs in bfloat16.
    """

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
    ) -> None:
        if isinstance(lr, Tensor):
            check_rate(lr)
        if not lr >= 0.0:
            raise ValueError(f"Learning rate should be >= 0 but is: {lr}")
        if not momentum >= 0.0:
            raise ValueError(f"momentum should be >= 0 but is: {momentum}")
        if not weight_decay >= 0.0:
            raise ValueError(f"weight decay should be >= 0 but is: {weight_decay}")
        if adjust_lr_fn is not None and adjust_lr_fn not in _ADJUSTMENTS:
            raise ValueError(f"Adjust learning rate function {adjust_lr_fn} is not supported")
        super().__init__(
            params,
            {
                "lr": lr,
                "weight_decay": weight_decay,
                "momentum": momentum,
                "nesterov": nesterov,
                "ns_coefficients": ns_coefficients,
                "eps": eps,
                "ns_steps": ns_steps,
                "adjust_lr_fn": adjust_lr_fn,
            },
        )

    def add_param_group(self, param_group: Group) -> None:
        super().add_param_group(param_group)
        for parameter in self.param_groups[-1]["params"]:
            if parameter.ndim != 2:
                self.param_groups.pop()
                raise ValueError(
                    "Muon only supports 2D parameters whereas we found a parameter with size: "
                    f"{parameter.shape}"
                )

    def new_state(self, group: Group, parameter: Tensor) -> dict[str, Any]:
        return {"momentum_buffer": filled_like(parameter)}

    def update_group(self, group: Group, pairs: Pairs) -> None:
        lr, momentum = runtime_number(group, "lr"), runtime_number(group, "momentum")
        for parameter, gradient in pairs:
            x, gradient = widened(parameter), widened(gradient)
            direction = moved(self.state[parameter]["momentum_buffer"], gradient, 1 - momentum)
            if group["nesterov"]:
                ahead = ops.mul(ops.sub(direction, gradient), scalar(momentum, gradient))
                direction = ops.add(gradient, ahead)
            direction = _orthogonalized(group, direction)
            rate = lr * _adjustment(group["adjust_lr_fn"], *parameter.shape)
            kept = ops.mul(x, scalar(1 - lr * runtime_number(group, "weight_decay"), x))
            change = ops.mul(ops.cast(direction, x._type.dtype), scalar(rate, x))
            store(parameter, ops.sub(kept, change))


def _adjustment(name: str | None, rows: int, columns: int) -> float:
    if name == "match_rms_adamw":
        return 0.2 * math.sqrt(max(rows, columns))
    return math.sqrt(max(1, rows / columns))


def _orthogonalized(group: Group, matrix: Tensor) -> Tensor:
    """Singular values moved near 1 by a quintic Newton-Schulz iteration, in bfloat16."""
    if group["ns_steps"] >= 100:
        raise ValueError("Number of steps must be less than 100 for computational efficiency")
    if len(group["ns_coefficients"]) != 3:
        raise ValueError("Coefficients must be a tuple of exactly 3 values")
    a, b, c = (runtime_number(group, "ns_coefficients", i) for i in range(3))
    rows, columns = matrix._type.shape
    x = ops.cast(matrix, bfloat16)
    is_tall = rows > columns
    if is_tall:
        x = ops.permute(x, axes=(1, 0))
    wide = widened(x)
    norm = ops.cast(ops.sqrt(sum_all(ops.mul(wide, wide))), bfloat16)
    eps = ops.cast(scalar(runtime_number(group, "eps"), wide), bfloat16)
    x = ops.div(x, ops.maximum(norm, eps))
    for _ in range(group["ns_steps"]):
        gram = matmul(x, ops.permute(x, axes=(1, 0)))
        polynomial = _sum_of(b, gram, c, matmul(gram, gram))
        x = _sum_of(a, x, 1.0, matmul(polynomial, x))
    return ops.permute(x, axes=(1, 0)) if is_tall else x


def _sum_of(first: Any, x: Tensor, second: Any, y: Tensor) -> Tensor:
    """first * x + second * y, rounded once."""
    x, y = widened(x), widened(y)
    total = ops.add(ops.mul(x, scalar(first, x)), ops.mul(y, scalar(second, y)))
    return ops.cast(total, bfloat16)
