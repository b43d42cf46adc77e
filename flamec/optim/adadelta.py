"""Adadelta (Zeiler 2012)."""

from __future__ import annotations

from typing import Any

from flamec.functional.primitives import ops, widened
from flamec.optim.optimizer import (
    Group,
    Optimizer,
    Parameters,
    advance,
    filled_like,
    new_scalar,
    scalar,
)
from flamec.optim.updates import Pairs, check_rate, decayed, prepared, require_at_least_zero, store
from flamec.runtime_numbers import runtime_number
from flamec.tensor import Tensor

__all__ = ["Adadelta"]


class Adadelta(Optimizer):
    """Steps whose size relative to the gradient follows that of past steps."""

    def __init__(
        self,
        params: Parameters,
        lr: float | Tensor = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        check_rate(lr)
        if not 0.0 <= rho <= 1.0:
            raise ValueError(f"Invalid rho value: {rho}")
        require_at_least_zero("epsilon value", eps)
        require_at_least_zero("weight_decay value", weight_decay)
        super().__init__(
            params,
            {
                "lr": lr,
                "rho": rho,
                "eps": eps,
                "weight_decay": weight_decay,
                "maximize": maximize,
                "capturable": capturable,
                "foreach": foreach,
                "differentiable": differentiable,
            },
        )

    def new_state(self, group: Group, parameter: Tensor) -> dict[str, Any]:
        return {
            "step": new_scalar(parameter),
            "square_avg": filled_like(parameter),
            "acc_delta": filled_like(parameter),
        }

    def update_group(self, group: Group, pairs: Pairs) -> None:
        lr, rho = runtime_number(group, "lr"), runtime_number(group, "rho")
        for parameter, x, gradient in prepared(group, pairs):
            state = self.state[parameter]
            advance(state["step"])
            eps = scalar(runtime_number(group, "eps"), x)
            square = decayed(state["square_avg"], ops.mul(gradient, gradient), rho)
            past = ops.sqrt(ops.add(widened(state["acc_delta"]), eps))
            change = ops.mul(ops.div(past, ops.sqrt(ops.add(square, eps))), gradient)
            decayed(state["acc_delta"], ops.mul(change, change), rho)
            store(parameter, ops.sub(x, ops.mul(change, scalar(lr, x))))
