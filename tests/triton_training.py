"""Whole training steps, captured from the frontend, as plans for a GPU.

Run as a program with TRITON_INTERPRET=1: each step runs in Triton's interpreter and through the
NumPy evaluator; a line of JSON says how many results there were and which differ.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

import flamec
from flamec import Tensor, nn, optim
from flamec.codegen.triton.compile_graph import compile_graph
from flamec.compiled_function import CompiledFunction
from flamec.config import default_options
from flamec.ir.evaluate import evaluate_graph
from flamec.nn import functional as F
from flamec.program import Program

Step = tuple[Callable[..., Tensor], tuple[Tensor, ...]]


def mlp() -> Step:
    """Normalisation, dropout, AdamW."""
    model = nn.Sequential(
        nn.Linear(10, 5), nn.LayerNorm(5), nn.GELU(), nn.Dropout(0.1), nn.Linear(5, 2)
    )
    optimizer = optim.AdamW(model.parameters(), lr=0.1)

    def step(x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step, (flamec.randn(7, 10), flamec.tensor([0, 1, 0, 1, 0, 1, 1]))


def single() -> Step:
    """A batch of one row: one index for all rows."""
    layer = nn.Linear(10, 5)

    def step(x: Tensor, y: Tensor) -> Tensor:
        loss = F.cross_entropy(layer(x), y)
        loss.backward()
        return loss

    return step, (flamec.randn(1, 10), flamec.tensor([3]))


def transformer() -> Step:
    """Embedding, causal attention, momentum."""
    embedding, mixed, head = nn.Embedding(11, 8), nn.Linear(8, 24), nn.Linear(8, 11)
    parameters = [*embedding.parameters(), *mixed.parameters(), *head.parameters()]
    optimizer = optim.SGD(parameters, lr=0.1, momentum=0.9)

    def step(ids: Tensor) -> Tensor:
        optimizer.zero_grad()
        x = embedding(ids)
        parts = mixed(F.layer_norm(x, (8,))).split(8, -1)
        q, k, v = (part.reshape(2, 6, 2, 4).transpose(1, 2) for part in parts)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + attended.transpose(1, 2).reshape(2, 6, 8)
        loss = F.cross_entropy(head(x).reshape(12, 11), ids.reshape(12))
        loss.backward()
        optimizer.step()
        return loss

    return step, (flamec.tensor([[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 0, 1]]),)


def convolutional() -> Step:
    """Strides, groups, overlapping pools, batch normalisation, odd sizes."""
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(6, 4, (2, 3), stride=2, groups=2, bias=False),
        nn.AvgPool2d(2, 1),
        nn.ConvTranspose2d(4, 3, 3, 2, 1),
        nn.Flatten(),
        nn.Linear(27, 2),
    )
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def step(x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step, (flamec.randn(2, 3, 11, 13), flamec.tensor([0, 1]))


def scaled() -> Step:
    """Mixed precision, a loss scale, and gradients of which some overflow."""
    model = nn.Sequential(nn.Linear(10, 6), nn.GELU(), nn.LayerNorm(6), nn.Linear(6, 2))
    optimizer = optim.AdamW(model.parameters(), lr=0.1)
    scaler = flamec.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)

    def step(x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad()
        with flamec.autocast("cpu", dtype=flamec.float16):
            loss = F.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss

    return step, (flamec.randn(7, 10), flamec.tensor([0, 1, 0, 1, 0, 1, 1]))


def update(make: Callable[[list[nn.Parameter]], optim.Optimizer]) -> Callable[[], Step]:
    """A step of an optimizer alone, over parameters of one and of several blocks."""

    def made() -> Step:
        parameters = [nn.Parameter(flamec.randn(shape)) for shape in ((5, 700), (7,), ())]
        optimizer = make(parameters)

        def step(x: Tensor) -> Tensor:
            for parameter in parameters:
                parameter.grad = parameter.detach() * x
            optimizer.step()
            return x + 1

        return step, (flamec.tensor(0.5),)

    return made


STEPS = {
    "convolutional": convolutional,
    "mlp": mlp,
    "single": single,
    "transformer": transformer,
    "scaled": scaled,
    "asgd": update(lambda p: optim.ASGD(p, lr=0.1, lambd=0.01)),
    "nadam": update(lambda p: optim.NAdam(p, lr=0.1)),
    "radam": update(lambda p: optim.RAdam(p, lr=0.1)),
    "rprop": update(lambda p: optim.Rprop(p, lr=0.1)),
    "rmsprop": update(lambda p: optim.RMSprop(p, lr=0.1, momentum=0.9)),
}


# float16 has 11 bits, and a fused kernel rounds to it less often than the evaluator
TOLERANCES = {"scaled": 2e-3}


def check_step(make: Callable[[], Step], tolerance: float = 2e-4) -> dict[str, Any]:
    from triton_interpreter import run_plan

    flamec.manual_seed(0)
    function, arguments = make()
    compiled = CompiledFunction(function, replace(default_options(), backend="evaluate"))
    program = compiled.compile_variant(arguments, {})
    assert isinstance(program, Program)
    graph = program.prepared.optimized
    rng = np.random.default_rng(0)
    arrays = []
    for value, source in zip(graph.inputs, program.captured.sources, strict=True):
        dtype = value.type.dtype
        if source.kind == "argument":
            arrays.append(np.array(arguments[source.position].numpy()))
        elif dtype.kind == "float":
            drawn = rng.uniform(0.1, 0.9, value.type.shape)
            arrays.append(np.asarray(drawn).astype(dtype.numpy))
        else:
            arrays.append(np.asarray(rng.integers(0, 2, value.type.shape), dtype.numpy))
    outputs, updates = run_plan(compile_graph(graph).plan, arrays, {})
    wanted, wanted_updates = evaluate_graph(graph, arrays, {})
    pairs = [*zip(outputs, wanted, strict=True)]
    pairs += [(updates[p], v) for p, v in wanted_updates.items()]
    wrong = [
        f"result {i}: {found} not {value}"[:300]
        for i, (found, value) in enumerate(pairs)
        if not np.allclose(found, value, tolerance, tolerance)
    ]
    return {"results": len(pairs), "wrong": wrong}


if __name__ == "__main__":
    for name, make in STEPS.items():
        found = check_step(make, TOLERANCES.get(name, 2e-4))
        print(json.dumps({"row": name, **found}), flush=True)
