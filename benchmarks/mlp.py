"""The whole training step of a multi-layer perceptron, for any widths.

zero_grad, forward, cross-entropy, backward and Adam: in flamec and torch one function, in JAX a
pure one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.frameworks import jax, torch_like
from benchmarks.harness import Contender, Step
from benchmarks.jax_adam import start, stepper, training_step


class Mlp:
    """Linear layers of the given widths with ReLU between, and one batch to learn."""

    def __init__(self, widths: Sequence[int], batch: int) -> None:
        random = np.random.default_rng(0)
        self.widths = tuple(widths)
        self.layers: list[tuple[np.ndarray, np.ndarray]] = []
        for inner, outer in zip(self.widths, self.widths[1:], strict=False):
            bound = inner**-0.5
            weight = random.uniform(-bound, bound, (outer, inner)).astype(np.float32)
            self.layers.append((weight, random.uniform(-bound, bound, outer).astype(np.float32)))
        self.x = random.standard_normal((batch, self.widths[0]), np.float32)
        self.y = random.integers(0, self.widths[-1], batch)

    def contenders(self) -> list[Contender]:
        """flamec, torch and JAX; each step gives the loss."""
        return [*torch_like(self.build), Contender("jax", self.in_jax)]

    def build(
        self,
        framework: Any,
        compile: Callable[[Any], Any],
        device: str = "cpu",
        **settings: Any,
    ) -> Step:
        """The training step as a user of flamec or torch writes it. ``settings`` are Adam's."""
        nn = framework.nn
        modules: list[Any] = []
        for inner, outer in zip(self.widths, self.widths[1:], strict=False):
            modules += [nn.Linear(inner, outer), nn.ReLU()]
        model = nn.Sequential(*modules[:-1])
        with framework.no_grad():
            for layer, (weight, bias) in zip(modules[::2], self.layers, strict=True):
                layer.weight.copy_(framework.from_numpy(weight))
                layer.bias.copy_(framework.from_numpy(bias))
        model = model.to(device)
        x, y = (framework.from_numpy(array).to(device) for array in (self.x, self.y))
        criterion = nn.CrossEntropyLoss()
        optimizer = framework.optim.Adam(model.parameters(), lr=0.001, **settings)

        @compile
        def step(x: Any, y: Any) -> Any:
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
            return loss

        return lambda: step(x, y)

    def in_jax(self) -> Step:
        """The same step over a list of (weight, bias)."""
        module = jax()

        def loss(layers: Any, x: Any, y: Any) -> Any:
            for weight, bias in layers[:-1]:
                x = module.nn.relu(x @ weight.T + bias)
            weight, bias = layers[-1]
            logarithms = module.nn.log_softmax(x @ weight.T + bias)
            return -module.numpy.take_along_axis(logarithms, y[:, None], 1).mean()

        layers = module.tree.map(module.numpy.asarray, self.layers)
        inputs = module.numpy.asarray(self.x), module.numpy.asarray(self.y)
        return stepper(module, training_step(module, loss), start(module, layers), *inputs)
