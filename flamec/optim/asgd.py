"""Averaged stochastic gradient descent (Polyak and Juditsky 1992; schedule: Bottou 2010)."""

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
    check_rate,
    larger,
    prepared,
    require_at_least_zero,
    store,
)
from flamec.runtime_numbers import runtime_number
from flamec.tensor import Tensor

__all__ = ["ASGD"]


class ASGD(Optimizer):
    """Gradient descent whose state ``ax`` is the average of the parameters from step t0 on."""

    def __init__(
        self,
        params: Parameters,
        lr: float | Tensor = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
    ) -> None:
        check_rate(lr)
        require_at_least_zero("weight_decay value", weight_decay)
        super().__init__(
            params,
            {
                "lr": lr,
                "lambd": lambd,
                "alpha": alpha,
                "t0": t0,
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
            "eta": new_scalar(parameter, float(group["lr"])),
            "mu": new_scalar(parameter, 1.0),
            "ax": filled_like(parameter),
        }

    def update_group(self, group: Group, pairs: Pairs) -> None:
        lr, lambd = runtime_number(group, "lr"), runtime_number(group, "lambd")
        alpha, start = runtime_number(group, "alpha"), runtime_number(group, "t0")
        for parameter, x, gradient in prepared(group, pairs):
            state = self.state[parameter]
            default = new_scalar(parameter)  # loaded state of another dtype is rounded alike
            eta, mu, average = state["eta"], state["mu"], state["ax"]
            advance(state["step"])
            rate = as_number(eta)
            x = ops.mul(x, scalar(1 - lambd * rate, x))
            x = ops.sub(x, ops.mul(gradient, scalar(rate, x)))
            store(parameter, x)
            old = widened(average)
            new = ops.add(old, ops.mul(ops.sub(x, old), scalar(mu, x)))
            store(average, ops.where(ops.eq(mu, 1.0), x, new))
            steps = as_number(state["step"])
            store(eta, scalar(lr / (1 + lambd * lr * steps) ** alpha, default))
            store(mu, scalar(1 / larger(1.0, steps - start), default))
