"""Adam (Kingma and Ba 2015), AMSGrad (Reddi et al. 2018), AdamW (Loshchilov and Hutter 2019)."""

from __future__ import annotations

from typing import Any

from flamec.functional.primitives import narrowed, ops, widened
from flamec.optim.optimizer import (
    Group,
    Optimizer,
    Parameters,
    advance,
    elapsed,
    is_one_element,
    new_step,
    scalar,
    update,
    zeros_like,
)
from flamec.runtime_numbers import runtime_number, static_condition
from flamec.tensor import Tensor

__all__ = ["Adam", "AdamW"]


class Adam(Optimizer):
    """Steps along the averaged gradient divided by the root of the averaged square.

    ``foreach``, ``capturable``, ``differentiable`` and ``fused`` are accepted for
    PyTorch's sake: compiling fuses the step over all parameters.
    """

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
        if not is_one_element(lr):
            raise ValueError("Tensor lr must be 1-element")
        if not lr >= 0.0:
            raise ValueError(f"Invalid learning rate: {lr}")
        if not eps >= 0.0:
            raise ValueError(f"Invalid epsilon value: {eps}")
        for index, beta in enumerate(betas):
            if not is_one_element(beta):
                raise ValueError(f"Tensor betas[{index}] must be 1-element")
            if not 0.0 <= beta < 1.0:
                raise ValueError(f"Invalid beta parameter at index {index}: {beta}")
        if not weight_decay >= 0.0:
            raise ValueError(f"Invalid weight_decay value: {weight_decay}")
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
            "step": new_step(parameter),
            "exp_avg": zeros_like(parameter),
            "exp_avg_sq": zeros_like(parameter),
        }
        if group["amsgrad"]:
            state["max_exp_avg_sq"] = zeros_like(parameter)
        return state

    def update_group(self, group: Group, pairs: list[tuple[Tensor, Tensor]]) -> None:
        decays = static_condition(group, "weight_decay", lambda v: v != 0)
        lr = runtime_number(group, "lr")
        beta1, beta2 = runtime_number(group, "betas", 0), runtime_number(group, "betas", 1)
        for parameter, gradient in pairs:
            state = self.state[parameter]
            x, gradient = widened(parameter), widened(gradient)
            if group["maximize"]:
                gradient = ops.neg(gradient)
            advance(state["step"])
            if decays:
                decay = runtime_number(group, "weight_decay")
                if group["decoupled_weight_decay"]:
                    x = ops.mul(x, scalar(1 - lr * decay, x))
                else:
                    gradient = ops.add(gradient, ops.mul(x, scalar(decay, x)))
            mean = _moved(state["exp_avg"], gradient, beta1)
            square = _decayed(state["exp_avg_sq"], ops.mul(gradient, gradient), beta2)
            if group["amsgrad"]:
                largest = state["max_exp_avg_sq"]
                square = ops.maximum(widened(largest), square)
                update(largest, narrowed(square, largest._type.dtype))
            steps = elapsed(state["step"])
            step_size = lr / (1 - beta1**steps)
            root = (1 - beta2**steps) ** 0.5
            size = ops.div(ops.sqrt(square), scalar(root, x))
            size = ops.add(size, scalar(runtime_number(group, "eps"), x))
            change = ops.div(ops.mul(mean, scalar(step_size, x)), size)
            update(parameter, narrowed(ops.sub(x, change), parameter._type.dtype))


def _moved(average: Tensor, value: Tensor, beta: Any) -> Tensor:
    """Move ``average`` towards ``value`` by 1 - beta, in place; the new average."""
    old = widened(average)
    new = ops.add(old, ops.mul(ops.sub(value, old), scalar(1 - beta, old)))
    update(average, narrowed(new, average._type.dtype))
    return new  # type: ignore[no-any-return]


def _decayed(average: Tensor, value: Tensor, beta: Any) -> Tensor:
    """Replace ``average`` by beta * average + (1 - beta) * value; the new average."""
    old = widened(average)
    share = ops.mul(value, scalar(1 - beta, old))
    new = ops.add(ops.mul(old, scalar(beta, old)), share)
    update(average, narrowed(new, average._type.dtype))
    return new  # type: ignore[no-any-return]


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
