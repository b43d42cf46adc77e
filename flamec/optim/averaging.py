"""Averages of a model's weights: stochastic weight averaging and moving averages.

Izmailov et al. 2018, "Averaging weights leads to wider optima and better
generalization"; Polyak and Juditsky 1992 for the moving average.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from copy import deepcopy
from itertools import chain
from typing import Any

from flamec.conversion import tensor
from flamec.dispatch import write
from flamec.functional.primitives import ops
from flamec.ir.types import int64
from flamec.nn.module import Module
from flamec.optim.optimizer import Optimizer
from flamec.optim.schedule import LRScheduler, each_group
from flamec.state import no_grad, thread
from flamec.tensor import Tensor

__all__ = [
    "SWALR",
    "AveragedModel",
    "get_ema_avg_fn",
    "get_ema_multi_avg_fn",
    "get_swa_avg_fn",
    "get_swa_multi_avg_fn",
    "update_bn",
]

Average = Callable[[Tensor, Tensor, Any], Tensor]
AverageOfMany = Callable[[list[Tensor], list[Tensor], Any], None]


def _check_decay(decay: float) -> None:
    if not 0.0 <= decay <= 1.0:
        raise ValueError(
            f"Invalid decay value {decay} provided. Please provide a value in [0,1] range."
        )


def get_ema_avg_fn(decay: float = 0.999) -> Average:
    """decay * average + (1 - decay) * current."""
    _check_decay(decay)

    @no_grad()
    def ema_update(ema_param: Tensor, current_param: Tensor, num_averaged: Any) -> Tensor:
        return decay * ema_param + (1 - decay) * current_param

    return ema_update


def get_swa_avg_fn() -> Average:
    """The mean of all that were averaged so far and the current value."""

    @no_grad()
    def swa_update(averaged_param: Tensor, current_param: Tensor, num_averaged: Any) -> Tensor:
        return averaged_param + (current_param - averaged_param) / (num_averaged + 1)

    return swa_update


def _of_many(average: Average) -> AverageOfMany:
    @no_grad()
    def update(averaged: list[Tensor], current: list[Tensor], num_averaged: Any) -> None:
        for mean, value in zip(averaged, current, strict=True):
            write(mean, average(mean, value, num_averaged).to(mean.dtype), "averaging")

    return update


def get_ema_multi_avg_fn(decay: float = 0.999) -> AverageOfMany:
    """As ``get_ema_avg_fn``, over lists, in place."""
    return _of_many(get_ema_avg_fn(decay))


def get_swa_multi_avg_fn() -> AverageOfMany:
    """As ``get_swa_avg_fn``, over lists, in place."""
    return _of_many(get_swa_avg_fn())


class AveragedModel(Module):
    """A copy of a model that holds averages of its parameters.

    ``update_parameters(model)`` takes the model's present values in; it may be part of a
    compiled step. Buffers are averaged too with ``use_buffers``, otherwise copied. The
    default is the mean of all values (stochastic weight averaging).
    """

    n_averaged: Tensor

    def __init__(
        self,
        model: Module,
        device: Any = None,
        avg_fn: Average | None = None,
        multi_avg_fn: AverageOfMany | None = None,
        use_buffers: bool = False,
    ) -> None:
        super().__init__()
        if avg_fn is not None and multi_avg_fn is not None:
            raise AssertionError("Only one of avg_fn and multi_avg_fn should be provided")
        self.module = deepcopy(model)
        if device is not None:
            self.module = self.module.to(device)
        self.register_buffer("n_averaged", tensor(0, dtype=int64, device=device))
        self.avg_fn = avg_fn
        self.multi_avg_fn = multi_avg_fn
        self.use_buffers = use_buffers

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def update_parameters(self, model: Module) -> None:
        """Average the model's parameters in; the first time they are copied."""
        with no_grad():
            pairs = zip(self.module.parameters(), model.parameters(), strict=True)
            if self.use_buffers:
                buffers = zip(self.module.buffers(), model.buffers(), strict=True)
                pairs = chain(pairs, buffers)
            both = [(mine.detach(), theirs.detach().to(mine.device)) for mine, theirs in pairs]
            self._average([mine for mine, _ in both], [theirs for _, theirs in both])
            if not self.use_buffers:
                for own, other in zip(self.module.buffers(), model.buffers(), strict=True):
                    write(own, other.detach().to(own.device), "update_parameters")
            write(self.n_averaged, self.n_averaged + 1, "update_parameters")

    def _average(self, averaged: list[Tensor], current: list[Tensor]) -> None:
        count = self.n_averaged
        is_first: Any = count == 0
        if thread.trace is None:
            is_first = bool(is_first)
            if is_first:
                for mean, value in zip(averaged, current, strict=True):
                    write(mean, value, "update_parameters")
                return
        if self.multi_avg_fn is not None:
            if thread.trace is not None:  # the average of equal values is that value
                for mean, value in zip(averaged, current, strict=True):
                    write(mean, ops.where(is_first, value, mean), "update_parameters")
            self.multi_avg_fn(averaged, current, count)
            return
        average = self.avg_fn or get_swa_avg_fn()
        for mean, value in zip(averaged, current, strict=True):
            new = average(mean, value, count).to(mean.dtype)
            if thread.trace is not None:
                new = ops.where(is_first, value, new)
            write(mean, new, "update_parameters")


def update_bn(loader: Iterable[Any], model: Module, device: Any = None) -> None:
    """Set the running statistics of batch norm layers to their means over the loader's batches.

    A batch that is a tuple or list begins with the model's input.
    """
    layers = [m for m in model.modules() if hasattr(m, "reset_running_stats")]
    momenta = {layer: layer.momentum for layer in layers}
    if not layers:
        return
    was_training = model.training
    model.train()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
    with no_grad():
        for batch in loader:
            value = batch[0] if isinstance(batch, (list, tuple)) else batch
            model(value if device is None else value.to(device))
    for layer, momentum in momenta.items():
        layer.momentum = momentum
    model.train(was_training)


class SWALR(LRScheduler):
    """lr to ``swa_lr`` in ``anneal_epochs`` epochs, along half a cosine or straight."""

    def __init__(
        self,
        optimizer: Optimizer,
        swa_lr: float | list[float],
        anneal_epochs: int = 10,
        anneal_strategy: str = "cos",
        last_epoch: int = -1,
    ) -> None:
        rates = each_group("swa_lr", optimizer.param_groups, swa_lr)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["swa_lr"] = rate
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(
                f"anneal_strategy must be one of 'cos' or 'linear', instead got {anneal_strategy}"
            )
        if not isinstance(anneal_epochs, int) or anneal_epochs < 0:
            raise ValueError(f"anneal_epochs must be equal or greater than 0, got {anneal_epochs}")
        self._anneal_strategy = anneal_strategy
        self.anneal_epochs = anneal_epochs
        super().__init__(optimizer, last_epoch)

    def _share(self, step: int) -> float:
        """How much of the way is behind at ``step``."""
        share = max(0.0, min(1.0, step / max(1, self.anneal_epochs)))
        return share if self._anneal_strategy == "linear" else (1 - math.cos(math.pi * share)) / 2

    def get_lr(self) -> list[float]:
        step = self._step_count - 1
        if self.anneal_epochs == 0:
            step = max(1, step)
        before, now = self._share(step - 1), self._share(step)
        rates = []
        for group, rate in zip(self.optimizer.param_groups, self._present(), strict=True):
            goal = group["swa_lr"]
            start = goal if before == 1 else (rate - before * goal) / (1 - before)
            rates.append(goal * now + start * (1 - now))
        return rates
