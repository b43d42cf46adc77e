"""Random programs of views and writes through them: values and gradients against PyTorch.

A program keeps a set of tensors, many of which share memory. Each step takes one
and makes a view, a new tensor, or writes into it. At the end a weighted sum of
squares of all tensors is differentiated with respect to the leaves.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import flamec

torch = pytest.importorskip("torch")

Step = Callable[[ModuleType, list[Any]], None]


class ProgramWriter:
    """Draws steps that are valid for the shapes the tensors have so far."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        rank = int(self.rng.integers(1, 4))
        shape = tuple(int(n) for n in self.rng.integers(1, 5, rank))
        self.leaves = [self.rng.standard_normal(shape) for _ in range(2)]
        self.examples = [torch.tensor(leaf, requires_grad=True) * 1.5 for leaf in self.leaves]
        self.steps: list[tuple[str, Step]] = []

    def choose(self, *options: Any) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def write(self, count: int) -> None:
        attempts = 0
        makers = (self.view, self.view, self.assign, self.change, self.fresh, self.masked)
        while len(self.steps) < count and attempts < 10 * count:
            attempts += 1
            i = int(self.rng.integers(len(self.examples)))
            make = self.choose(*makers)
            if make in (self.assign, self.change, self.masked) and overlaps(self.examples[i]):
                continue
            name, step = make(i, self.examples[i])
            count_before = len(self.examples)
            try:
                step(torch, self.examples)
            except RuntimeError:  # views that need a copy, shapes that do not fit
                del self.examples[count_before:]
                continue
            self.steps.append((name, step))

    def axis(self, x: Any) -> int:
        return int(self.rng.integers(x.ndim)) if x.ndim else 0

    def index(self, x: Any) -> tuple[Any, ...]:
        items: list[Any] = []
        for size in x.shape:
            start = int(self.rng.integers(0, size + 1))
            whole = slice(None)
            part = slice(start, None, int(self.rng.integers(1, 3)))
            items.append(self.choose(whole, part, -1 if size else whole, None))
            if items[-1] is None:
                items.append(whole)
        return tuple(items)

    def view(self, i: int, x: Any) -> tuple[str, Step]:
        a, b = self.axis(x), self.axis(x)
        index = self.index(x)
        kinds: list[tuple[str, Callable[[Any], Any]]] = [
            (f"[{index}]", lambda x: x[index]),
            ("transpose", lambda x: x.transpose(a, b) if x.ndim else x.view(())),
            ("view", lambda x: x.view(-1)),
            ("reshape", lambda x: x.reshape(-1, 1)),
            ("flatten", lambda x: x.flatten()),
            ("unsqueeze", lambda x: x.unsqueeze(a)),
            ("squeeze", lambda x: x.squeeze()),
            ("expand", lambda x: x.expand(2, *x.shape)),
            ("detach", lambda x: x.detach()),
        ]
        if x.ndim >= 2 and a != b:
            kinds.append(("diagonal", lambda x: x.diagonal(0, a, b)))
        name, view = self.choose(*kinds)

        def step(lib: ModuleType, tensors: list[Any]) -> None:
            tensors.append(view(tensors[i]))

        return f"t.append(t[{i}].{name})", step

    def number(self) -> float:
        return float(np.round(self.rng.standard_normal(), 2))

    def operand(self, target: Any, shape: Any) -> Callable[[ModuleType, list[Any]], Any]:
        """A number, a constant, or a function of the first leaf."""
        number = self.number()
        kept = tuple(shape)[int(self.rng.integers(0, len(shape) + 1)) :]
        constant = self.rng.standard_normal(kept)
        match int(self.rng.integers(3)):
            case 0:
                return lambda lib, tensors: number
            case 1:
                return lambda lib, tensors: lib.tensor(constant)
            case _:
                return lambda lib, tensors: lib.tensor(constant) * (lib.sin(tensors[-1].leaf).sum())

    def assign(self, i: int, x: Any) -> tuple[str, Step]:
        index = self.index(x)
        value = self.operand(x, x[index].shape)

        def step(lib: ModuleType, tensors: list[Any]) -> None:
            tensors[i][index] = value(lib, tensors)

        return f"t[{i}][{index}] = …", step

    def change(self, i: int, x: Any) -> tuple[str, Step]:
        value, name = (
            self.operand(x, x.shape),
            self.choose("add_", "sub_", "mul_", "copy_", "zero_"),
        )

        def step(lib: ModuleType, tensors: list[Any]) -> None:
            operand = value(lib, tensors)
            if name == "zero_":
                tensors[i].zero_()
            elif name == "copy_":
                operand = operand if not isinstance(operand, float) else lib.tensor(operand)
                tensors[i].copy_(operand)
            else:
                getattr(tensors[i], name)(operand if name != "mul_" else 1.25)

        return f"t[{i}].{name}", step

    def fresh(self, i: int, x: Any) -> tuple[str, Step]:
        name = self.choose("clone", "mul", "neg")

        def step(lib: ModuleType, tensors: list[Any]) -> None:
            x = tensors[i]
            tensors.append({"clone": x.clone, "mul": lambda: x * 2.0, "neg": x.neg}[name]())

        return f"t.append(t[{i}].{name}())", step

    def masked(self, i: int, x: Any) -> tuple[str, Step]:
        mask = self.rng.random(tuple(x.shape)) < 0.4
        number = self.number()
        size = x.shape[0] if x.ndim else 0
        picked = self.rng.permutation(size)[: (size + 1) // 2] if size else None

        def step(lib: ModuleType, tensors: list[Any]) -> None:
            if picked is None:
                tensors[i].masked_fill_(lib.tensor(mask), number)
            else:
                tensors[i][lib.tensor(picked)] = number
                tensors[i][lib.tensor(mask)] = -number

        return f"t[{i}][mask] = {number}", step


def overlaps(x: Any) -> bool:
    return any(s == 0 and d > 1 for s, d in zip(x.stride(), x.shape, strict=True))


class Tensors(list[Any]):
    """The tensors of a running program; ``self[-1].leaf`` is the first leaf."""

    def __init__(self, items: list[Any], leaf: Any) -> None:
        super().__init__(items)
        self._leaf = leaf

    def __getitem__(self, i: Any) -> Any:
        return _Leaf(self._leaf) if i == -1 else super().__getitem__(i)


class _Leaf:
    def __init__(self, leaf: Any) -> None:
        self.leaf = leaf


def run(
    lib: ModuleType, leaves: list[np.ndarray], steps: list[tuple[str, Step]], compiled: bool = False
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The values of all tensors at the end, and the gradients of the leaves."""
    inputs = [lib.tensor(leaf, requires_grad=True) for leaf in leaves]

    def program(*inputs: Any) -> tuple[list[Any], Any]:
        tensors = Tensors([x * 1.5 for x in inputs], inputs[0])
        for _, step in steps:
            step(lib, tensors)
        total = sum(x.sum() for x in inputs) * 0.0
        for position, x in enumerate(tensors):
            weights = lib.arange(1, x.numel() + 1, dtype=lib.float64).reshape(tuple(x.shape))
            total = total + (x * x * weights).sum() * (0.5 + position)
        return [x.detach() for x in tensors], lib.autograd.grad(total, inputs)

    values, grads = (flamec.compile(program) if compiled else program)(*inputs)
    return [np.array(x.numpy()) for x in values], [g.numpy() for g in grads]


def check(seed: int, compiled: bool) -> None:
    writer = ProgramWriter(seed)
    writer.examples = Tensors(writer.examples, torch.tensor(writer.leaves[0]))
    writer.write(12)
    program = "\n".join(name for name, _ in writer.steps)
    want_values, want_grads = run(torch, writer.leaves, writer.steps)
    values, grads = run(flamec, writer.leaves, writer.steps, compiled)
    for position, (got, want) in enumerate(zip(values, want_values, strict=True)):
        np.testing.assert_allclose(got, want, rtol=1e-12, err_msg=f"t[{position}] of\n{program}")
    for position, (got, want) in enumerate(zip(grads, want_grads, strict=True)):
        np.testing.assert_allclose(
            got, want, rtol=1e-9, atol=1e-9, err_msg=f"gradient of leaf {position} in\n{program}"
        )


@pytest.mark.parametrize("seed", range(150))
def test_values_and_gradients(seed: int) -> None:
    check(seed, compiled=False)


@pytest.mark.parametrize("seed", range(1000, 1025))
def test_compiled_values_and_gradients(seed: int) -> None:
    check(seed, compiled=True)
