"""NAdam (Dozat 2016, "Incorporating Nesterov momentum into Adam")."""

from __future__ import annotations

from typing import Any

from flamec.functional.primitives import ops
from flamec.optim.optimizer import (
    Group,
    Optimizer,
    Parameters,
    advance,
    as_number,
    filled_like,
    new_scalar,
    scalar,
    update,
)
from flamec.optim.updates import (
    Pairs,
    check_betas,
    check_rate,
    decayed,
    moved,
    prepared,
    require_at_least_zero,
    store,
)
from flamec.runtime_numbers import runtime_number
from flamec.tensor import Tensor

__all__ = ["NAdam"]


class NAdam(Optimizer):
    """Adam that looks ahead along the averaged gradient; momentum grows towards beta1."""

    def __init__(
        self,
        params: Parameters,
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        check_rate(lr)
        require_at_least_zero("epsilon value", eps)
        check_betas(betas)
        require_at_least_zero("weight_decay value", weight_decay)
        require_at_least_zero("momentum_decay value", momentum_decay)
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "momentum_decay": momentum_decay,
                "decoupled_weight_decay": decoupled_weight_decay,
                "maximize": maximize,
                "foreach": foreach,
                "capturable": capturable,
                "differentiable": differentiable,
            },
        )

    def new_state(self, group: Group, parameter: Tensor) -> dict[str, Any]:
        return {
            "step": new_scalar(parameter),
            "mu_product": new_scalar(parameter, 1.0),
            "exp_avg": filled_like(parameter),
            "exp_avg_sq": filled_like(parameter),
        }

    def update_group(self, group: Group, pairs: Pairs) -> None:
        lr = runtime_number(group, "lr")
        beta1, beta2 = runtime_number(group, "betas", 0), runtime_number(group, "betas", 1)
        decay = runtime_number(group, "momentum_decay")
        for parameter, x, gradient in prepared(group, pairs, group["decoupled_weight_decay"]):
            state = self.state[parameter]
            advance(state["step"])
            steps = as_number(state["step"])
            momentum = beta1 * (1.0 - 0.5 * 0.96 ** (steps * decay))
            following = beta1 * (1.0 - 0.5 * 0.96 ** ((steps + 1) * decay))
            product = state["mu_product"]
            update(product, ops.mul(product, scalar(momentum, product)))
            momenta = as_number(product)
            mean = moved(state["exp_avg"], gradient, 1 - beta1)
            square = decayed(state["exp_avg_sq"], ops.mul(gradient, gradient), beta2)
            size = ops.sqrt(ops.div(square, scalar(1 - beta2**steps, x)))
            size = ops.add(size, scalar(runtime_number(group, "eps"), x))
            now = lr * (1.0 - momentum) / (1.0 - momenta)
            ahead = lr * following / (1.0 - momenta * following)
            change = ops.div(ops.mul(gradient, scalar(now, x)), size)
            change_ahead = ops.div(ops.mul(mean, scalar(ahead, x)), size)
            store(parameter, ops.sub(ops.sub(x, change), change_ahead))
