"""A small GPT, once for flamec and torch and once for JAX, with the same named parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.frameworks import jax
from benchmarks.harness import Step
from benchmarks.jax_adam import start, stepper, training_step


@dataclass(frozen=True)
class GptSize:
    """Widths and counts; ``heads`` divides ``width``."""

    layers: int = 4
    width: int = 256
    heads: int = 4
    context: int = 128
    batch: int = 8
    vocabulary: int = 4096


def parameters(size: GptSize) -> dict[str, np.ndarray]:
    """Initial values by name; matrices as ``nn.Linear`` keeps them, (out, in)."""
    random = np.random.default_rng(0)
    width = size.width

    def normal(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape) * 0.02).astype(np.float32)

    def norm(name: str) -> dict[str, np.ndarray]:
        return {
            f"{name}.weight": np.ones(width, np.float32),
            f"{name}.bias": np.zeros(width, np.float32),
        }

    def linear(name: str, inner: int, outer: int) -> dict[str, np.ndarray]:
        return {f"{name}.weight": normal(outer, inner), f"{name}.bias": np.zeros(outer, np.float32)}

    values = {
        "token.weight": normal(size.vocabulary, width),
        "position.weight": normal(size.context, width),
    }
    for i in range(size.layers):
        values |= norm(f"blocks.{i}.norm1") | norm(f"blocks.{i}.norm2")
        values |= linear(f"blocks.{i}.qkv", width, 3 * width)
        values |= linear(f"blocks.{i}.project", width, width)
        values |= linear(f"blocks.{i}.up", width, 4 * width)
        values |= linear(f"blocks.{i}.down", 4 * width, width)
    return values | norm("norm") | {"head.weight": normal(size.vocabulary, width)}


def batch(size: GptSize) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and the tokens that follow them, (batch, context)."""
    tokens = np.random.default_rng(1).integers(0, size.vocabulary, (size.batch, size.context + 1))
    return np.ascontiguousarray(tokens[:, :-1]), np.ascontiguousarray(tokens[:, 1:])


def build_model(framework: Any, size: GptSize) -> Any:
    """The module of flamec or torch, with ``parameters(size)``."""
    nn, functional = framework.nn, framework.nn.functional
    heads, head_width = size.heads, size.width // size.heads
    scale = head_width**-0.5

    class Block(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(size.width), nn.LayerNorm(size.width)
            self.qkv = nn.Linear(size.width, 3 * size.width)
            self.project = nn.Linear(size.width, size.width)
            self.up = nn.Linear(size.width, 4 * size.width)
            self.down = nn.Linear(4 * size.width, size.width)

        def forward(self, x: Any, mask: Any) -> Any:
            rows, length, width = x.shape
            parts = self.qkv(self.norm1(x)).chunk(3, dim=-1)
            q, k, v = (p.reshape(rows, length, heads, head_width).transpose(1, 2) for p in parts)
            weights = functional.softmax(q @ k.transpose(-2, -1) * scale + mask, dim=-1)
            mixed = (weights @ v).transpose(1, 2).reshape(rows, length, width)
            x = x + self.project(mixed)
            return x + self.down(functional.gelu(self.up(self.norm2(x))))

    class Gpt(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Embedding(size.vocabulary, size.width)
            self.position = nn.Embedding(size.context, size.width)
            self.blocks = nn.ModuleList([Block() for _ in range(size.layers)])
            self.norm = nn.LayerNorm(size.width)
            self.head = nn.Linear(size.width, size.vocabulary, bias=False)

        def forward(self, tokens: Any) -> Any:
            length = tokens.shape[1]
            places = framework.arange(length)
            mask = framework.full((length, length), float("-inf")).triu(1)
            x = self.token(tokens) + self.position(places)
            for block in self.blocks:
                x = block(x, mask)
            return self.head(self.norm(x))

    model = Gpt()
    values = parameters(size)
    with framework.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(framework.from_numpy(values[name]))
    return model


def training(framework: Any, compile: Callable[[Any], Any], size: GptSize) -> Step:
    """One whole step with AdamW, in flamec or torch."""
    model = build_model(framework, size)
    tokens, targets = (framework.from_numpy(array) for array in batch(size))
    optimizer = framework.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)

    @compile
    def step(tokens: Any, targets: Any) -> Any:
        optimizer.zero_grad()
        logits = model(tokens)
        loss = framework.nn.functional.cross_entropy(
            logits.reshape(-1, size.vocabulary), targets.reshape(-1)
        )
        loss.backward()
        optimizer.step()
        return loss

    return lambda: step(tokens, targets)


def training_in_jax(size: GptSize) -> Step:
    """The same step as a pure function of the named parameters."""
    module = jax()
    numpy = module.numpy
    heads, head_width = size.heads, size.width // size.heads

    def norm(p: Any, name: str, x: Any) -> Any:
        centred = x - x.mean(-1, keepdims=True)
        variance = (centred * centred).mean(-1, keepdims=True)
        return centred * module.lax.rsqrt(variance + 1e-5) * p[f"{name}.weight"] + p[f"{name}.bias"]

    def linear(p: Any, name: str, x: Any) -> Any:
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def attention(p: Any, name: str, x: Any, mask: Any) -> Any:
        rows, length, width = x.shape
        parts = numpy.split(linear(p, f"{name}.qkv", x), 3, axis=-1)
        q, k, v = (t.reshape(rows, length, heads, head_width).transpose(0, 2, 1, 3) for t in parts)
        scores = q @ k.transpose(0, 1, 3, 2) * head_width**-0.5 + mask
        mixed = (module.nn.softmax(scores) @ v).transpose(0, 2, 1, 3)
        return linear(p, f"{name}.project", mixed.reshape(rows, length, width))

    def loss(p: Any, tokens: Any, targets: Any) -> Any:
        length = tokens.shape[1]
        mask = numpy.triu(numpy.full((length, length), -numpy.inf), 1)
        x = p["token.weight"][tokens] + p["position.weight"][:length]
        for i in range(size.layers):
            name = f"blocks.{i}"
            x = x + attention(p, name, norm(p, f"{name}.norm1", x), mask)
            hidden = linear(p, f"{name}.up", norm(p, f"{name}.norm2", x))
            x = x + linear(p, f"{name}.down", module.nn.gelu(hidden, approximate=False))
        logarithms = module.nn.log_softmax(norm(p, "norm", x) @ p["head.weight"].T)
        return -numpy.take_along_axis(logarithms, targets[..., None], -1).mean()

    values = {name: numpy.asarray(value) for name, value in parameters(size).items()}
    step = training_step(module, loss, weight_decay=0.01)
    return stepper(module, step, start(module, values), *map(numpy.asarray, batch(size)))
