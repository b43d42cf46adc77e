"""Rprop (Riedmiller and Braun 1993), in its form without weight backtracking."""

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
from flamec.optim.updates import Pairs, check_rate, store
from flamec.runtime_numbers import runtime_number, unread
from flamec.tensor import Tensor

__all__ = ["Rprop"]


class Rprop(Optimizer):
    """Steps of a size of each element's own, which grows while its gradient keeps its sign."""

    def __init__(
        self,
        params: Parameters,
        lr: float | Tensor = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50),
        *,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        check_rate(lr)
        if not 0.0 < etas[0] < 1.0 < etas[1]:
            raise ValueError(f"Invalid eta values: {etas[0]}, {etas[1]}")
        super().__init__(
            params,
            {
                "lr": lr,
                "etas": etas,
                "step_sizes": step_sizes,
                "foreach": foreach,
                "maximize": maximize,
                "differentiable": differentiable,
                "capturable": capturable,
            },
        )

    def new_state(self, group: Group, parameter: Tensor) -> dict[str, Any]:
        return {
            "step": new_scalar(parameter),
            "prev": filled_like(parameter),
            "step_size": filled_like(parameter, float(group["lr"])),
        }

    def update_group(self, group: Group, pairs: Pairs) -> None:
        unread(group, "lr")  # only the first step sizes depend on it
        shrink, grow = runtime_number(group, "etas", 0), runtime_number(group, "etas", 1)
        low, high = runtime_number(group, "step_sizes", 0), runtime_number(group, "step_sizes", 1)
        for parameter, gradient in pairs:
            state = self.state[parameter]
            x, gradient = widened(parameter), widened(gradient)
            if group["maximize"]:
                gradient = ops.neg(gradient)
            advance(state["step"])
            sign = ops.sign(ops.mul(gradient, widened(state["prev"])))
            has_turned = ops.lt(sign, 0.0)
            factor = ops.where(ops.eq(sign, 0.0), 1.0, sign)
            factor = ops.where(ops.gt(sign, 0.0), scalar(grow, x), factor)
            factor = ops.where(has_turned, scalar(shrink, x), factor)
            size = ops.mul(widened(state["step_size"]), factor)
            size = ops.minimum(ops.maximum(size, scalar(low, x)), scalar(high, x))
            store(state["step_size"], size)
            gradient = ops.where(has_turned, 0.0, gradient)
            store(parameter, ops.sub(x, ops.mul(ops.sign(gradient), size)))
            store(state["prev"], gradient)
