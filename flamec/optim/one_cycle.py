"""The one-cycle schedule of learning rate and momentum."""

from __future__ import annotations

import math
from typing import Any

from flamec.optim.optimizer import Optimizer
from flamec.optim.schedule import LRScheduler, each_group, require_momentum, set_momentum

__all__ = ["OneCycleLR"]


class OneCycleLR(LRScheduler):
    """lr up to ``max_lr`` and down again, momentum the other way (Smith and Topin 2019)."""

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | list[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.85,
        max_momentum: float | list[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise ValueError(
                    "You must define either total_steps OR (epochs AND steps_per_epoch)"
                )
            total_steps = epochs * steps_per_epoch
        if not isinstance(total_steps, int) or total_steps <= 0:
            raise ValueError(f"Expected positive integer total_steps, but got {total_steps}")
        if not 0 <= pct_start <= 1 or not isinstance(pct_start, float):
            raise ValueError(f"Expected float between 0 and 1 pct_start, but got {pct_start}")
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(
                f"anneal_strategy must be one of 'cos' or 'linear', instead got {anneal_strategy}"
            )
        self.total_steps = total_steps
        self._anneal_func_type = anneal_strategy
        self.cycle_momentum = cycle_momentum
        self._schedule_phases = _one_cycle_phases(total_steps, pct_start, three_phase)
        groups = optimizer.param_groups
        if last_epoch == -1:
            for group, rate in zip(groups, each_group("max_lr", groups, max_lr), strict=True):
                group["initial_lr"] = rate / div_factor
                group["max_lr"] = rate
                group["min_lr"] = group["initial_lr"] / final_div_factor
        if cycle_momentum:
            require_momentum(optimizer)
            self.use_beta1 = "betas" in optimizer.defaults
            highs = each_group("max_momentum", groups, max_momentum)
            lows = each_group("base_momentum", groups, base_momentum)
            if last_epoch == -1:
                for group, high, low in zip(groups, highs, lows, strict=True):
                    set_momentum(group, high)
                    group["max_momentum"] = high
                    group["base_momentum"] = low
        super().__init__(optimizer, last_epoch)

    def _between(self, start: float, end: float, share: float) -> float:
        if self._anneal_func_type == "linear":
            return (end - start) * share + start
        return end + (start - end) / 2.0 * (1 + math.cos(math.pi * share))

    def get_lr(self) -> list[float]:
        step = self.last_epoch
        if step > self.total_steps:
            raise ValueError(
                f"Tried to step {step} times. The specified number of total steps is "
                f"{self.total_steps}"
            )
        begin = 0.0
        for phase in self._schedule_phases:
            if step <= phase["end_step"]:
                break
            begin = phase["end_step"]
        else:
            begin = self._schedule_phases[-2]["end_step"]
        share = (step - begin) / (phase["end_step"] - begin)
        results = []
        for group in self.optimizer.param_groups:
            results.append(self._between(group[phase["start_lr"]], group[phase["end_lr"]], share))
            if self.cycle_momentum:
                start, end = group[phase["start_momentum"]], group[phase["end_momentum"]]
                set_momentum(group, self._between(start, end, share))
        return results


_KEYS = ("end_step", "start_lr", "end_lr", "start_momentum", "end_momentum")


def _one_cycle_phases(
    total_steps: int, pct_start: float, three_phase: bool
) -> list[dict[str, Any]]:
    """Each phase's last step and the keys of lr and momentum at its start and end; the layout is
    that of a scheduler's state in PyTorch."""
    rise = float(pct_start * total_steps) - 1
    down, up = ("max_momentum", "base_momentum"), ("base_momentum", "max_momentum")
    phases: list[tuple[Any, ...]] = [(rise, "initial_lr", "max_lr", *down)]
    if three_phase:
        phases.append((float(2 * pct_start * total_steps) - 2, "max_lr", "initial_lr", *up))
        flat = ("max_momentum", "max_momentum")
        phases.append((total_steps - 1, "initial_lr", "min_lr", *flat))
    else:
        phases.append((total_steps - 1, "max_lr", "min_lr", *up))
    return [dict(zip(_KEYS, phase, strict=True)) for phase in phases]
