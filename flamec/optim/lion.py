"""Lion (Chen et al. 2023, "Symbolic discovery of optimization algorithms", algorithm 2)."""

from __future__ import annotations

from typing import Any

from flamec.functional.primitives import ops, widened
from flamec.optim.optimizer import Group, Optimizer, Parameters, filled_like, scalar
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

__all__ = ["Lion"]


class Lion(Optimizer):
    """Steps of one size along the sign of the gradient mixed with its average.

    Weight decay is decoupled. PyTorch has no such optimizer; names and defaults are the
    paper's.
    """

    def __init__(
        self,
        params: Parameters,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        check_rate(lr)
        check_betas(betas)
        require_at_least_zero("weight_decay value", weight_decay)
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "weight_decay": weight_decay,
                "maximize": maximize,
                "foreach": foreach,
                "capturable": capturable,
                "differentiable": differentiable,
            },
        )

    def new_state(self, group: Group, parameter: Tensor) -> dict[str, Any]:
        return {"exp_avg": filled_like(parameter)}

    def update_group(self, group: Group, pairs: Pairs) -> None:
        lr = runtime_number(group, "lr")
        beta1, beta2 = runtime_number(group, "betas", 0), runtime_number(group, "betas", 1)
        for parameter, x, gradient in prepared(group, pairs, decoupled=True):
            mean = widened(self.state[parameter]["exp_avg"])
            mixed = ops.add(mean, ops.mul(ops.sub(gradient, mean), scalar(1 - beta1, x)))
            store(parameter, ops.sub(x, ops.mul(ops.sign(mixed), scalar(lr, x))))
            moved(self.state[parameter]["exp_avg"], gradient, 1 - beta2)
