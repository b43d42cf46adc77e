"""Adam (Kingma and Ba 2015), AMSGrad (Reddi et al. 2018), AdamW (Loshchilov and Hutter 2019)."""

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
    decayed,
    moved,
    prepared,
    require_at_least_zero,
    store,
)
from flamec.runtime_numbers import runtime_number
from flamec.tensor import Tensor

__all__ = ["Adam", "AdamW"]


class Adam(Optimizer):
    """Steps along the averaged gradient divided by the root of the averaged square."""

    def __init__(
        self,
        params: Parameters,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
    ) -> None:
        check_rate(lr)
        require_at_least_zero("epsilon value", eps)
        check_betas(betas)
        require_at_least_zero("weight_decay value", weight_decay)
        if foreach and not capturable:
            for name, number in (("lr", lr), ("betas[0]", betas[0]), ("betas[1]", betas[1])):
                if isinstance(number, Tensor):
                    raise ValueError(
                        f"{name} as a Tensor is not supported for capturable=False and foreach=True"
                    )
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": tuple(betas),
                "eps": eps,
                "weight_decay": weight_decay,
                "amsgrad": amsgrad,
                "maximize": maximize,
                "foreach": foreach,
                "capturable": capturable,
                "differentiable": differentiable,
                "fused": fused,
                "decoupled_weight_decay": decoupled_weight_decay,
            },
        )

    def new_state(self, group: Group, parameter: Tensor) -> dict[str, Any]:
        state = {
            "step": new_scalar(parameter),
            "exp_avg": filled_like(parameter),
            "exp_avg_sq": filled_like(parameter),
        }
        if group["amsgrad"]:
            state["max_exp_avg_sq"] = filled_like(parameter)
        return state

    def update_group(self, group: Group, pairs: Pairs) -> None:
        lr = runtime_number(group, "lr")
        beta1, beta2 = runtime_number(group, "betas", 0), runtime_number(group, "betas", 1)
        for parameter, x, gradient in prepared(group, pairs, group["decoupled_weight_decay"]):
            state = self.state[parameter]
            advance(state["step"])
            mean = moved(state["exp_avg"], gradient, 1 - beta1)
            square = decayed(state["exp_avg_sq"], ops.mul(gradient, gradient), beta2)
            if group["amsgrad"]:
                largest = state["max_exp_avg_sq"]
                before = widened(largest)
                if group["differentiable"]:  # the derivative needs what is overwritten
                    before = ops.convert(before, dtype=before._type.dtype)
                square = ops.maximum(before, square)
                store(largest, square)
            steps = as_number(state["step"])
            step_size = lr / (1 - beta1**steps)
            root = (1 - beta2**steps) ** 0.5
            size = ops.div(ops.sqrt(square), scalar(root, x))
            size = ops.add(size, scalar(runtime_number(group, "eps"), x))
            change = ops.div(ops.mul(mean, scalar(step_size, x)), size)
            store(parameter, ops.sub(x, change))


class AdamW(Adam):
    """Adam whose weight decay acts on the parameters, not through the gradient."""

    def __init__(
        self,
        params: Parameters,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=True,
        )
