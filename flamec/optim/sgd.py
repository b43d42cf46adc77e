"""Stochastic gradient descent with momentum (Sutskever et al. 2013, in PyTorch's form)."""

from __future__ import annotations

from typing import Any

from flamec.functional.primitives import ops, widened
from flamec.optim.optimizer import Group, Optimizer, Parameters, filled_like, scalar, update
from flamec.optim.updates import (
    Pairs,
    check_rate,
    is_not_zero,
    prepared,
    require_at_least_zero,
    store,
)
from flamec.runtime_numbers import runtime_number, static_condition
from flamec.tensor import Tensor

__all__ = ["SGD"]


class SGD(Optimizer):
    """parameter -= lr * (momentum-averaged gradient)."""

    def __init__(
        self,
        params: Parameters,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float | Tensor = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        check_rate(lr)
        require_at_least_zero("momentum value", momentum)
        require_at_least_zero("weight_decay value", weight_decay)
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        self._dampening: dict[Tensor, Tensor] = {}
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "dampening": dampening,
                "weight_decay": weight_decay,
                "nesterov": nesterov,
                "maximize": maximize,
                "foreach": foreach,
                "differentiable": differentiable,
                "fused": fused,
            },
        )

    def new_state(self, group: Group, parameter: Tensor) -> dict[str, Any]:
        if group["momentum"] == 0:
            return {}
        is_over = 0.0 if group["dampening"] != 0 else 1.0  # a first step without needs no exception
        self._dampening[parameter] = ops.full_like(is_over, parameter._type.with_shape(()))
        return {"momentum_buffer": filled_like(parameter)}

    def update_group(self, group: Group, pairs: Pairs) -> None:
        has_momentum = static_condition(group, "momentum", is_not_zero)
        lr = runtime_number(group, "lr")
        for parameter, x, gradient in prepared(group, pairs):
            if has_momentum:
                gradient = self._with_momentum(group, parameter, gradient)
            store(parameter, ops.sub(x, ops.mul(gradient, scalar(lr, x))))

    def _with_momentum(self, group: Group, parameter: Tensor, gradient: Tensor) -> Tensor:
        """Update the parameter's momentum buffer; the gradient to step along."""
        buffer = self.state[parameter]["momentum_buffer"]
        momentum = scalar(runtime_number(group, "momentum"), gradient)
        share = gradient
        if static_condition(group, "dampening", is_not_zero):
            share = ops.mul(gradient, self._undampened(group, parameter, gradient))
        average = ops.add(ops.mul(widened(buffer), momentum), share)
        store(buffer, average)
        if group["nesterov"]:
            return ops.add(gradient, ops.mul(average, momentum))
        return average

    def _undampened(self, group: Group, parameter: Tensor, gradient: Tensor) -> Tensor:
        """1 at the buffer's first step, afterwards 1 - dampening.

        Whether it is the first step is kept in a tensor (0, then 1), so that a compiled
        step serves both.
        """
        active = self._dampening[parameter]
        dampening = scalar(runtime_number(group, "dampening"), gradient)
        factor = ops.sub(1.0, ops.mul(dampening, ops.cast(active, gradient._type.dtype)))
        update(active, ops.constant(1.0, active._type))
        return factor

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._dampening.clear()
        for parameter, entry in self.state.items():
            if isinstance(parameter, Tensor) and entry.get("momentum_buffer") is not None:
                self._dampening[parameter] = ops.full_like(1.0, parameter._type.with_shape(()))
