"""Schedules that come back: cyclic learning rates, and cosine annealing with restarts."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import FunctionType
from typing import Any

from flamec.optim.optimizer import Optimizer
from flamec.optim.schedule import (
    LRScheduler,
    each_group,
    require_momentum,
    set_momentum,
    set_rate,
)

__all__ = ["CosineAnnealingWarmRestarts", "CyclicLR"]

_MODES = ("triangular", "triangular2", "exp_range")


class CyclicLR(LRScheduler):
    """lr up and down between two bounds, momentum the other way (Smith 2017).

    The height of a cycle is scaled by 1 (``"triangular"``), by 1 / 2^(cycle - 1)
    (``"triangular2"``), by gamma^iteration (``"exp_range"``), or by ``scale_fn`` of the cycle
    or the iteration (``scale_mode``).
    """

    def __init__(
        self,
        optimizer: Optimizer,
        base_lr: float | list[float],
        max_lr: float | list[float],
        step_size_up: int = 2000,
        step_size_down: int | None = None,
        mode: str = "triangular",
        gamma: float = 1.0,
        scale_fn: Callable[[float], float] | None = None,
        scale_mode: str = "cycle",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.8,
        max_momentum: float | list[float] = 0.9,
        last_epoch: int = -1,
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")
        groups = optimizer.param_groups
        lows = each_group("base_lr", groups, base_lr)
        if last_epoch == -1:
            for group, rate in zip(groups, lows, strict=True):
                set_rate(group, rate)
        self.max_lrs = each_group("max_lr", groups, max_lr)
        up = float(step_size_up)
        down = up if step_size_down is None else float(step_size_down)
        self.total_size = up + down
        self.step_ratio = up / self.total_size
        if mode not in _MODES and scale_fn is None:
            raise ValueError("mode is invalid and scale_fn is None")
        self.mode = mode
        self.gamma = gamma
        self._scale_fn_custom = scale_fn
        self.scale_mode = scale_mode
        if scale_fn is None:
            self.scale_mode = "iterations" if mode == "exp_range" else "cycle"
        self.cycle_momentum = cycle_momentum
        if cycle_momentum:
            require_momentum(optimizer)
            self.use_beta1 = "betas" in optimizer.defaults
            self.base_momentums = each_group("base_momentum", groups, base_momentum)
            self.max_momentums = each_group("max_momentum", groups, max_momentum)
            if last_epoch == -1:
                pairs = zip(groups, self.base_momentums, self.max_momentums, strict=True)
                for group, low, high in pairs:
                    set_momentum(group, high)
                    group["max_momentum"] = high
                    group["base_momentum"] = low
        super().__init__(optimizer, last_epoch)
        self.base_lrs = lows

    def scale_fn(self, x: float) -> float:
        """The factor of the cycle's height for a cycle or an iteration."""
        if self._scale_fn_custom is not None:
            return self._scale_fn_custom(x)
        if self.mode == "triangular2":
            return 1 / 2.0 ** (x - 1)
        return self.gamma**x if self.mode == "exp_range" else 1.0

    def get_lr(self) -> list[float]:
        cycle = math.floor(1 + self.last_epoch / self.total_size)
        place = 1.0 + self.last_epoch / self.total_size - cycle
        if place <= self.step_ratio:
            height = place / self.step_ratio
        else:
            height = (place - 1) / (self.step_ratio - 1)
        height *= self.scale_fn(cycle if self.scale_mode == "cycle" else self.last_epoch)
        if self.cycle_momentum:
            bounds = zip(self.base_momentums, self.max_momentums, strict=True)
            for group, (low, high) in zip(self.optimizer.param_groups, bounds, strict=True):
                set_momentum(group, high - (high - low) * height)
        rates = zip(self.base_lrs, self.max_lrs, strict=True)
        return [low + (high - low) * height for low, high in rates]

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer and functions; of a callable object, its attributes."""
        state = super().state_dict()
        function = state["_scale_fn_custom"]
        has_state = function is not None and not isinstance(function, FunctionType)
        state["_scale_fn_custom"] = dict(function.__dict__) if has_state else None
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        own = {k: v for k, v in state_dict.items() if k != "_scale_fn_custom"}
        super().load_state_dict(own)
        attributes = state_dict.get("_scale_fn_custom")
        if attributes is not None and self._scale_fn_custom is not None:
            self._scale_fn_custom.__dict__.update(attributes)


class CosineAnnealingWarmRestarts(LRScheduler):
    """Half cosines from the initial lr to eta_min, each T_mult times longer than the last.

    Loshchilov and Hutter 2017, "SGDR". ``step`` also takes a fraction of an epoch.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        T_0: int,
        T_mult: int = 1,
        eta_min: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        if not isinstance(T_0, int) or T_0 <= 0:
            raise ValueError(f"Expected positive integer T_0, but got {T_0}")
        if not isinstance(T_mult, int) or T_mult < 1:
            raise ValueError(f"Expected integer T_mult >= 1, but got {T_mult}")
        if not isinstance(eta_min, (float, int)):
            raise ValueError(
                f"Expected float or int eta_min, but got {eta_min} of type {type(eta_min)}"
            )
        self.T_0 = T_0
        self.T_i = T_0
        self.T_mult = T_mult
        self.eta_min = eta_min
        self.T_cur: float = last_epoch
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        height = (1 + math.cos(math.pi * self.T_cur / self.T_i)) / 2
        return [self.eta_min + (base - self.eta_min) * height for base in self.base_lrs]

    def step(self, epoch: float | None = None) -> None:
        """Go to the next epoch, or to ``epoch``, which may be a fraction."""
        if epoch is None and self.last_epoch >= 0:
            epoch = self.last_epoch + 1
            self.T_cur += 1
            if self.T_cur >= self.T_i:
                self.T_cur %= self.T_i
                self.T_i *= self.T_mult
        else:
            epoch = 0 if epoch is None else epoch
            self._go_to(epoch)
        self.last_epoch = math.floor(epoch)
        for group, rate in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            set_rate(group, rate)
        self._last_lr = self._present()

    def _go_to(self, epoch: float) -> None:
        """Set the length of the cycle that ``epoch`` is in, and the place within it."""
        if epoch < 0:
            raise ValueError(f"Expected non-negative epoch, but got {epoch}")
        if epoch < self.T_0:
            self.T_i, self.T_cur = self.T_0, epoch
        elif self.T_mult == 1:
            self.T_cur = epoch % self.T_0
        else:
            grown = epoch / self.T_0 * (self.T_mult - 1) + 1
            cycles = int(math.log(grown, self.T_mult))
            before = self.T_0 * (self.T_mult**cycles - 1) / (self.T_mult - 1)
            self.T_cur = epoch - before
            self.T_i = self.T_0 * self.T_mult**cycles
