"""LRScheduler: what all learning-rate schedules share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flamec.dispatch import write
from flamec.functional.primitives import ops
from flamec.optim.optimizer import Group, Optimizer
from flamec.optim.traced_schedule import repeated
from flamec.state import no_grad
from flamec.tensor import Tensor

__all__ = [
    "LRScheduler",
    "each_group",
    "number",
    "require_momentum",
    "set_momentum",
    "set_rate",
]


def number(value: Any) -> float:
    """A learning rate as a Python number; it may be kept in a tensor."""
    return value.item() if isinstance(value, Tensor) else value


def set_rate(group: Group, rate: float) -> None:
    """Set a group's lr; a tensor keeps its identity and gets the new value."""
    if isinstance(group["lr"], Tensor):
        with no_grad():
            write(group["lr"], ops.constant(float(rate), group["lr"]._type), "lr")
    else:
        group["lr"] = rate


def each_group(name: str, groups: list[Group], value: float | Sequence[float]) -> list[float]:
    """One value for each group."""
    if not isinstance(value, (list, tuple)):
        return [value] * len(groups)  # type: ignore[list-item]  # no list: one value
    if len(value) != len(groups):
        raise ValueError(f"{name} must have the same length as optimizer.param_groups")
    return list(value)


def set_momentum(group: Group, value: float) -> None:
    """Set a group's momentum, or its beta1."""
    if "betas" in group:
        group["betas"] = (value, *group["betas"][1:])
    else:
        group["momentum"] = value


def require_momentum(optimizer: Optimizer) -> None:
    """ValueError unless the optimizer has a momentum, or a beta1, to cycle."""
    if "momentum" not in optimizer.defaults and "betas" not in optimizer.defaults:
        raise ValueError(
            "optimizer must support momentum or beta1 with `cycle_momentum` option enabled"
        )


class LRScheduler:
    """Base class; a subclass defines ``get_lr``, the rates for ``last_epoch``.

    A compiled function repeats ``step()`` at each call (``traced_schedule.py``).
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "step" in cls.__dict__:
            setattr(cls, "step", repeated(cls.__dict__["step"]))  # noqa: B010 (mypy: a method)

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")
        self.optimizer = optimizer
        for position, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                rate = group["lr"]
                group.setdefault("initial_lr", rate.clone() if isinstance(rate, Tensor) else rate)
            elif "initial_lr" not in group:
                raise KeyError(
                    f"param 'initial_lr' is not specified in param_groups[{position}] when "
                    "resuming a scheduler with last_epoch >= 0: load the optimizer's state first"
                )
        self.base_lrs = [number(group["initial_lr"]) for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self._is_initial = self._get_lr_called_within_step = False  # as in PyTorch's state
        self._initial_step()

    def _initial_step(self) -> None:
        self._step_count = 0
        self._is_initial = True
        self.step()
        self._is_initial = False

    def get_lr(self) -> list[float]:
        """The learning rate of each group for ``last_epoch``."""
        raise NotImplementedError

    def get_last_lr(self) -> list[float]:
        """The learning rates that the last ``step()`` set."""
        return self._last_lr

    @repeated
    def step(self, epoch: int | None = None) -> None:
        """Go to the next epoch, or to ``epoch``, and set the learning rates."""
        self._step_count += 1
        self._advance(epoch)

    def _advance(self, epoch: int | None = None) -> None:
        if epoch is None:
            self.last_epoch += 1
            rates = self.get_lr()
        else:
            self.last_epoch = epoch
            rates = self.closed_form()
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            set_rate(group, rate)
        self._last_lr = self._present()

    def closed_form(self) -> list[float]:
        """The rates for ``last_epoch`` from the initial ones, where a formula is known."""
        return self.get_lr()

    def _present(self) -> list[float]:
        return [number(group["lr"]) for group in self.optimizer.param_groups]

    def _scaled(self, factor: float) -> list[float]:
        return [rate * factor for rate in self._present()]

    def _from_base(self, factor: float) -> list[float]:
        return [base * factor for base in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer."""
        return {k: v for k, v in self.__dict__.items() if k != "optimizer"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a ``state_dict``."""
        self.__dict__.update(state_dict)
