"""RAdam (Liu et al. 2020, "On the variance of the adaptive learning rate and beyond")."""

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

__all__ = ["RAdam"]


class RAdam(Optimizer):
    """Adam that steps along the plain average until the variance of its step size is known."""

    def __init__(
        self,
        params: Parameters,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
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
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "maximize": maximize,
                "foreach": foreach,
                "capturable": capturable,
                "decoupled_weight_decay": decoupled_weight_decay,
                "differentiable": differentiable,
            },
        )

    def new_state(self, group: Group, parameter: Tensor) -> dict[str, Any]:
        return {
            "step": new_scalar(parameter),
            "exp_avg": filled_like(parameter),
            "exp_avg_sq": filled_like(parameter),
        }

    def update_group(self, group: Group, pairs: Pairs) -> None:
        lr = runtime_number(group, "lr")
        beta1, beta2 = runtime_number(group, "betas", 0), runtime_number(group, "betas", 1)
        for parameter, x, gradient in prepared(group, pairs, group["decoupled_weight_decay"]):
            state = self.state[parameter]
            advance(state["step"])
            steps = as_number(state["step"])
            mean = moved(state["exp_avg"], gradient, 1 - beta1)
            square = decayed(state["exp_avg_sq"], ops.mul(gradient, gradient), beta2)
            change = ops.mul(mean, scalar(lr / (1 - beta1**steps), x))
            size = ops.add(ops.sqrt(square), scalar(runtime_number(group, "eps"), x))
            is_known, factor = _rectification(beta2, steps)
            adapted = ops.mul(ops.div(change, size), scalar(factor, x))
            if isinstance(is_known, Tensor):
                change = ops.where(is_known, adapted, change)
            elif is_known:
                change = adapted
            store(parameter, ops.sub(x, change))


def _rectification(beta2: Any, steps: Any) -> tuple[Any, Any]:
    """Whether the variance is known well enough, and the factor of the adapted step then.

    The factor is the paper's r_t times the bias correction of the second moment.
    """
    correction = 1 - beta2**steps
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * steps * beta2**steps / correction
    is_known = ops.gt(length, 5.0) if isinstance(length, Tensor) else length > 5.0
    ratio = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    if isinstance(ratio, Tensor):
        return is_known, ops.sqrt(ops.mul(ops.where(is_known, ratio, 0.0), correction))
    return is_known, (ratio * correction) ** 0.5 if is_known else 0.0
