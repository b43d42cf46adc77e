"""Adamax (Kingma and Ba 2015, section 7.1): Adam with the infinity norm."""

from __future__ import annotations

from typing import Any

from flamec.functional.primitives import ops, widened
from flamec.optim.optimizer import (
    Group,
    Optimizer,
    Parameters,
    advance,
    as_number,
    filled_like,
    new_scalar,
    scalar,
)
from flamec.optim.updates import (
    Pairs,
    check_betas,
    check_rate,
    moved,
    prepared,
    require_at_least_zero,
    store,
)
from flamec.runtime_numbers import runtime_number
from flamec.tensor import Tensor

__all__ = ["Adamax"]


class Adamax(Optimizer):
    """Steps along the averaged gradient divided by the decayed maximum of its magnitude."""

    def __init__(
        self,
        params: Parameters,
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
    ) -> None:
        check_rate(lr)
        require_at_least_zero("epsilon value", eps)
        check_betas(betas)
        require_at_least_zero("weight_decay value", weight_decay)
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "foreach": foreach,
                "maximize": maximize,
                "differentiable": differentiable,
                "capturable": capturable,
            },
        )

    def new_state(self, group: Group, parameter: Tensor) -> dict[str, Any]:
        return {
            "step": new_scalar(parameter),
            "exp_avg": filled_like(parameter),
            "exp_inf": filled_like(parameter),
        }

    def update_group(self, group: Group, pairs: Pairs) -> None:
        lr = runtime_number(group, "lr")
        beta1, beta2 = runtime_number(group, "betas", 0), runtime_number(group, "betas", 1)
        for parameter, x, gradient in prepared(group, pairs):
            state = self.state[parameter]
            advance(state["step"])
            mean = moved(state["exp_avg"], gradient, 1 - beta1)
            largest = ops.mul(widened(state["exp_inf"]), scalar(beta2, x))
            magnitude = ops.add(ops.abs(gradient), scalar(runtime_number(group, "eps"), x))
            largest = ops.maximum(largest, magnitude)
            store(state["exp_inf"], largest)
            rate = lr / (1 - beta1 ** as_number(state["step"]))
            change = ops.div(ops.mul(mean, scalar(rate, x)), largest)
            store(parameter, ops.sub(x, change))
