"""Adagrad (Duchi, Hazan and Singer 2011)."""

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
from flamec.optim.updates import Pairs, check_rate, prepared, require_at_least_zero, store
from flamec.runtime_numbers import runtime_number
from flamec.tensor import Tensor

__all__ = ["Adagrad"]


class Adagrad(Optimizer):
    """Steps along the gradient divided by the root of the sum of all squares so far."""

    def __init__(
        self,
        params: Parameters,
        lr: float | Tensor = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        check_rate(lr)
        require_at_least_zero("lr_decay value", lr_decay)
        require_at_least_zero("weight_decay value", weight_decay)
        require_at_least_zero("initial_accumulator_value value", initial_accumulator_value)
        require_at_least_zero("epsilon value", eps)
        super().__init__(
            params,
            {
                "lr": lr,
                "lr_decay": lr_decay,
                "eps": eps,
                "weight_decay": weight_decay,
                "initial_accumulator_value": initial_accumulator_value,
                "foreach": foreach,
                "maximize": maximize,
                "differentiable": differentiable,
                "fused": fused,
            },
        )
        for group in self.param_groups:  # unlike others, it has state before the first step
            self._create_state(group, group["params"])

    def new_state(self, group: Group, parameter: Tensor) -> dict[str, Any]:
        start = self.defaults["initial_accumulator_value"]
        return {"step": new_scalar(parameter), "sum": filled_like(parameter, start)}

    def update_group(self, group: Group, pairs: Pairs) -> None:
        lr, decay = runtime_number(group, "lr"), runtime_number(group, "lr_decay")
        for parameter, x, gradient in prepared(group, pairs):
            state = self.state[parameter]
            advance(state["step"])
            total = ops.add(widened(state["sum"]), ops.mul(gradient, gradient))
            store(state["sum"], total)
            rate = lr / (1 + (as_number(state["step"]) - 1) * decay)
            size = ops.add(ops.sqrt(total), scalar(runtime_number(group, "eps"), x))
            change = ops.div(ops.mul(gradient, scalar(rate, x)), size)
            store(parameter, ops.sub(x, change))
