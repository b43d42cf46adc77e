"""Adafactor (Shazeer and Stern 2018), in PyTorch's form.

As there, lr bounds the relative step size and is the factor of the weight decay, and
the small numbers enter the estimate of the variance rather than its factors.
"""

from __future__ import annotations

from typing import Any

from flamec.dtype_limits import finfo
from flamec.functional.primitives import mean_over, ops, sum_all, widened
from flamec.ir.shape import product
from flamec.optim.optimizer import (
    Group,
    Optimizer,
    Parameters,
    advance,
    as_number,
    new_scalar,
    scalar,
)
from flamec.optim.updates import (
    Pairs,
    check_rate,
    is_not_zero,
    moved,
    smaller,
    store,
)
from flamec.runtime_numbers import runtime_number, static_condition
from flamec.tensor import Tensor

__all__ = ["Adafactor"]


class Adafactor(Optimizer):
    """Adam's second moment as a product of a column and a row; steps relative to the values."""

    def __init__(
        self,
        params: Parameters,
        lr: float | Tensor = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
    ) -> None:
        if isinstance(lr, Tensor):
            check_rate(lr)
        if not lr >= 0.0:
            raise ValueError(f"Learning rate should be >= 0 but is: {lr}")
        if not beta2_decay <= 0.0:
            raise ValueError(f"beta2_decay should be <= 0 but is: {beta2_decay}")
        if eps[0] is not None and not eps[0] >= 0.0:
            raise ValueError(f"epsilon1 should be >= 0 but is: {eps[0]}")
        if not eps[1] >= 0.0:
            raise ValueError(f"epsilon2 should be >= 0 but is: {eps[1]}")
        if not d >= 1.0:
            raise ValueError(f"Clipping threshold d should be >= 1 but is: {d}")
        if not weight_decay >= 0.0:
            raise ValueError(f"weight_decay should be >= 0 but is: {weight_decay}")
        super().__init__(
            params,
            {
                "lr": lr,
                "beta2_decay": beta2_decay,
                "eps": eps,
                "d": d,
                "weight_decay": weight_decay,
                "foreach": foreach,
                "maximize": maximize,
            },
        )

    def new_state(self, group: Group, parameter: Tensor) -> dict[str, Any]:
        kind, shape = parameter._type, parameter._type.shape
        if len(shape) < 2:
            return {"step": new_scalar(parameter), "variance": ops.full_like(0.0, kind)}
        return {
            "step": new_scalar(parameter),
            "row_var": ops.full_like(0.0, kind.with_shape((*shape[:-1], 1))),
            "col_var": ops.full_like(0.0, kind.with_shape((*shape[:-2], 1, shape[-1]))),
        }

    def update_group(self, group: Group, pairs: Pairs) -> None:
        lr = runtime_number(group, "lr")
        decays = static_condition(group, "weight_decay", is_not_zero)
        for parameter, gradient in pairs:
            state = self.state[parameter]
            x, gradient = widened(parameter), widened(gradient)
            if group["maximize"]:
                gradient = ops.neg(gradient)
            tiny, smallest = group["eps"][0], runtime_number(group, "eps", 1)
            tiny = finfo(parameter.dtype).eps if tiny is None else runtime_number(group, "eps", 0)
            advance(state["step"])
            steps = as_number(state["step"])
            relative = scalar(smaller(lr, 1 / steps**0.5), x)
            rate = ops.mul(ops.maximum(_root_mean_square(x), scalar(smallest, x)), relative)
            if decays:
                x = ops.mul(x, scalar(1 - lr * runtime_number(group, "weight_decay"), x))
            variance = _variance(
                state, gradient, steps ** runtime_number(group, "beta2_decay"), tiny
            )
            variance = ops.maximum(variance, scalar(tiny * tiny, x))
            change = ops.mul(ops.rsqrt(variance), gradient)
            clipped = ops.div(_root_mean_square(change), scalar(runtime_number(group, "d"), x))
            rate = ops.div(rate, ops.maximum(clipped, 1.0))
            store(parameter, ops.sub(x, ops.mul(change, rate)))


def _root_mean_square(x: Tensor) -> Tensor:
    total = sum_all(ops.mul(x, x))
    return ops.sqrt(ops.div(total, product(x._type.shape)))


def _variance(state: dict[str, Any], gradient: Tensor, weight: Any, tiny: Any) -> Tensor:
    """Move the averages of squares towards the new ones; the estimate for each element."""
    square = ops.mul(gradient, gradient)
    if "variance" in state:
        return moved(state["variance"], square, weight)
    last = len(square._type.shape) - 1
    rows = moved(state["row_var"], mean_over(square, (last,)), weight)
    columns = moved(state["col_var"], mean_over(square, (last - 1,)), weight)
    scale = ops.maximum(mean_over(rows, (last - 1,)), scalar(tiny, rows))
    shape = gradient._type.shape
    product_of_both = ops.mul(ops.expand_to(rows, shape), ops.expand_to(columns, shape))
    return ops.div(product_of_both, ops.expand_to(scale, shape))
