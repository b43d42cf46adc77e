"""``as_strided`` where it reaches beyond its tensor, and layouts in ``func``, against PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

import flamec

torch = pytest.importorskip("torch")

Program = Callable[[ModuleType], Any]
WAYS = {"eager": lambda f: f, "compiled": flamec.compile}


def plain(result: Any) -> Any:
    if isinstance(result, (list, tuple)):
        return [plain(part) for part in result]
    return result.tolist() if hasattr(result, "tolist") else result


def rows(p: ModuleType) -> Any:
    return p.arange(24.0).reshape(4, 6)


def gradient(p: ModuleType, start: Callable[[Any], Any], *window: Any) -> Any:
    """What the view shows, and its gradient by a leaf; ``start`` makes of the leaf a tensor."""
    leaf = p.arange(12.0).requires_grad_()
    shown = start(leaf).as_strided(*window)
    weights = p.arange(1.0, 1 + shown.numel()).reshape(shown.shape)
    return shown, p.autograd.grad((shown * weights).sum(), leaf)[0]


def of_leaf(p: ModuleType, make: Callable[[Any], Any], *window: Any) -> Any:
    """The same by a leaf that is a view of other memory."""
    leaf = make(p.arange(12.0)).requires_grad_()
    shown = leaf.as_strided(*window)
    weights = p.arange(1.0, 1 + shown.numel()).reshape(shown.shape)
    return shown, p.autograd.grad((shown * weights).sum(), leaf)[0]


def of_function(p: ModuleType, x: Any, *window: Any) -> Any:
    """The same by the argument of a function."""
    wanted = p.func.jacrev(lambda x: x.as_strided(*window) ** 2)(x)
    directional = p.func.jvp(lambda x: x.as_strided(*window) ** 2, (x,), (p.ones(x.shape),))
    return wanted, directional


PROGRAMS: dict[str, Program] = {
    "part": lambda p: gradient(p, lambda x: (x * 1)[3:7], (4,), (1,), 2),
    "columns": lambda p: gradient(p, lambda x: (x * 1).reshape(3, 4)[:, 1:3], (4,), (1,), 2),
    "transposed": lambda p: gradient(p, lambda x: (x * 1).reshape(3, 4).t(), (2, 3), (5, 1), 1),
    "expanded": lambda p: gradient(p, lambda x: (x * 1)[2:5].expand(2, 3), (2,), (1,), 3),
    "part of a leaf": lambda p: of_leaf(p, lambda x: x[3:7], (4,), (1,), 2),
    "columns of a leaf": lambda p: of_leaf(p, lambda x: x.reshape(3, 4)[:, 1:3], (2, 2), (4, 1)),
    "transposed leaf": lambda p: of_leaf(p, lambda x: x.reshape(3, 4).t(), (3, 4), (4, 1)),
    "argument": lambda p: of_function(p, p.arange(10.0)[3:7], (2,), (1,), 4),
    "beyond an argument": lambda p: of_function(p, p.arange(10.0)[3:7], (3,), (1,), 2),
    "transposed argument": lambda p: of_function(
        p, p.arange(6.0).reshape(2, 3).t(), (2, 3), (3, 1)
    ),
    "example": lambda p: p.func.vmap(lambda x: x.as_strided((2,), (1,), 7))(rows(p)[1:]),
    "transposed example": lambda p: p.func.vmap(lambda x: x.as_strided((3, 2), (2, 1)))(
        rows(p).reshape(4, 3, 2).transpose(1, 2)
    ),
    "gradient of an example": lambda p: p.func.vmap(
        p.func.grad(lambda x: (x.as_strided((2,), (1,), 7) ** 2).sum())
    )(rows(p)[1:]),
    "example of examples": lambda p: p.func.vmap(
        p.func.vmap(lambda x: x.as_strided((2,), (2,), 1)), in_dims=1
    )(p.arange(24.0).reshape(2, 3, 4)[:, 0:1]),
    "written before": lambda p: _written(p),
}


def _written(p: ModuleType) -> Any:
    leaf = p.arange(10.0).requires_grad_()
    memory = leaf * 1
    shown = memory[3:7].as_strided((4,), (1,), 2)
    memory.mul_(2)
    return shown, p.autograd.grad((shown**2).sum(), leaf)[0]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("program", PROGRAMS)
def test_views_of_what_lies_in_memory(program: str, way: str) -> None:
    ours = WAYS[way](lambda: PROGRAMS[program](flamec))()
    assert plain(ours) == plain(PROGRAMS[program](torch))


@pytest.mark.parametrize("way", WAYS)
def test_examples_have_the_layout_of_the_batch(way: str) -> None:
    def written(p: ModuleType) -> Any:
        x = p.arange(12.0).reshape(2, 2, 3).transpose(1, 2)

        def copied(x: Any) -> Any:
            x.reshape(6).mul_(2)
            x.contiguous().mul_(2)
            return x + (x.stride() == (1, 3)) * 100 + x.is_contiguous() * 1000

        return p.func.vmap(copied)(x), x

    assert plain(WAYS[way](lambda: written(flamec))()) == plain(written(torch))
    batch = flamec.arange(24.0).reshape(4, 2, 3).transpose(1, 2)
    for view in (lambda x: x.view(6).sum(), lambda x: x.as_strided((7,), (1,)).sum()):
        for function, x in ((flamec.func.vmap(view), batch), (flamec.func.grad(view), batch[3])):
            with pytest.raises(RuntimeError, match=r"(view|as_strided): .*parity.py"):
                WAYS[way](function)(x)


def test_a_compiled_function_asks_how_the_batch_lies() -> None:
    compiled = flamec.compile(flamec.func.vmap(lambda x: x.as_strided((2,), (1,))))
    x = flamec.arange(24.0).reshape(2, 3, 4)
    for batch in (x, x.transpose(1, 2), x[:, 1:], x):
        wanted = [batch[i].as_strided((2,), (1,)).tolist() for i in range(2)]
        assert compiled(batch).tolist() == wanted


@pytest.mark.parametrize("way", WAYS)
def test_refused_writes(way: str) -> None:
    def part(x: Any) -> None:
        (x * 1)[3:7].as_strided((4,), (1,), 2)[1:].mul_(2)

    with pytest.raises(RuntimeError, match=r"mul_: a view by as_strided\(\).*parity.py"):
        WAYS[way](part)(flamec.arange(10.0).requires_grad_())
    parts = flamec.arange(10.0)[2:], flamec.arange(8.0).detach()
    for leaf in [part.requires_grad_() for part in parts]:
        with pytest.raises(RuntimeError, match=r"leaf tensor that requires grad.*view of one"):
            WAYS[way](lambda x: x.view(4, 2)[0].mul_(2))(leaf)
