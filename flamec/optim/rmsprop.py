"""RMSprop (Hinton 2012, lecture 6e; centered: Graves 2013), with momentum."""

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
from flamec.optim.updates import (
    Pairs,
    check_rate,
    decayed,
    moved,
    prepared,
    require_at_least_zero,
    store,
)
from flamec.runtime_numbers import runtime_number, static_condition
from flamec.tensor import Tensor

__all__ = ["RMSprop"]


class RMSprop(Optimizer):
    """Steps along the gradient divided by the root of its averaged square, or of its variance."""

    def __init__(
        self,
        params: Parameters,
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        check_rate(lr)
        require_at_least_zero("epsilon value", eps)
        require_at_least_zero("momentum value", momentum)
        require_at_least_zero("weight_decay value", weight_decay)
        require_at_least_zero("alpha value", alpha)
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "alpha": alpha,
                "eps": eps,
                "centered": centered,
                "weight_decay": weight_decay,
                "capturable": capturable,
                "foreach": foreach,
                "maximize": maximize,
                "differentiable": differentiable,
            },
        )

    def new_state(self, group: Group, parameter: Tensor) -> dict[str, Any]:
        state = {"step": new_scalar(parameter), "square_avg": filled_like(parameter)}
        if group["momentum"] > 0:
            state["momentum_buffer"] = filled_like(parameter)
        if group["centered"]:
            state["grad_avg"] = filled_like(parameter)
        return state

    def update_group(self, group: Group, pairs: Pairs) -> None:
        lr, alpha = runtime_number(group, "lr"), runtime_number(group, "alpha")
        has_momentum = static_condition(group, "momentum", _is_positive)
        for parameter, x, gradient in prepared(group, pairs):
            state = self.state[parameter]
            advance(state["step"])
            square = decayed(state["square_avg"], ops.mul(gradient, gradient), alpha)
            if group["centered"]:
                mean = moved(state["grad_avg"], gradient, 1 - alpha)
                square = ops.sub(square, ops.mul(mean, mean))
            size = ops.add(ops.sqrt(square), scalar(runtime_number(group, "eps"), x))
            if has_momentum:
                buffer = state["momentum_buffer"]
                kept = ops.mul(widened(buffer), scalar(runtime_number(group, "momentum"), x))
                change = ops.add(kept, ops.div(gradient, size))
                store(buffer, change)
                change = ops.mul(change, scalar(lr, x))
            else:
                change = ops.div(ops.mul(gradient, scalar(lr, x)), size)
            store(parameter, ops.sub(x, change))


def _is_positive(value: Any) -> bool:
    return bool(value > 0)
