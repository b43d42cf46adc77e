"""Sizes that begin to vary one after the other: two programs, and sizes that the function fixes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import flamec
from flamec import nn

T = flamec.Tensor
F = nn.functional
Sizes = tuple[int, int]

WIDTH, WORDS = 8, 11
BATCH_FIRST = [(4, 16), (5, 16), (5, 17), (1, 1), (3, 0)]
LENGTH_FIRST = [(4, 16), (4, 17), (5, 17), (1, 1), (0, 3)]
ONE_FIRST = [(1, 16), (1, 17), (5, 17), (1, 1), (6, 2)]
rng = np.random.default_rng(0)


def floats(*shape: int) -> T:
    return flamec.from_numpy(rng.standard_normal(shape, np.float32))


def words(*shape: int) -> T:
    return flamec.from_numpy(rng.integers(0, WORDS, shape))


def language_model() -> Callable[[T, T], T]:
    flamec.manual_seed(0)
    embedding, head = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WORDS)

    def loss(x: T, y: T) -> T:
        h = embedding(x)
        h = F.scaled_dot_product_attention(h, h, h, is_causal=True)
        return F.cross_entropy(head(h).flatten(0, 1), y.flatten(), reduction="sum")

    return loss


def weighted(x: T, mask: T, first: T, second: T) -> T:
    scores = (x @ first) @ x.transpose(1, 2)
    return scores.masked_fill(mask, -1e9).softmax(-1) @ F.layer_norm(x, (WIDTH,)) @ second


def to_one_number(x: T, y: T) -> T:
    return ((x.mean((1, 2)) - y) ** 2).sum()


def with_cache() -> Callable[[T, T], T]:
    """Products of sizes are equal only because of what other questions say of them."""
    flamec.manual_seed(0)
    embedding = nn.Embedding(WORDS, WIDTH)

    def step(x: T, cache: T) -> T:
        batch, length = x.shape
        heads = embedding(x).view(batch, length, 2, 4).transpose(1, 2)
        cache = flamec.cat([cache, heads], 2)
        y = (heads @ cache.transpose(2, 3)).softmax(-1) @ cache
        y = y.transpose(1, 2).reshape(batch, length, WIDTH)
        return flamec.autograd.grad((y * y).sum() + (cache * cache).sum(), embedding.weight)[0]

    return step


def with_context(x: T, context: T) -> T:
    """Views that are possible only where two sizes are known to be equal."""
    batch, other = x.shape[0], context.shape[1]
    parts = flamec.cat([context] * 3, -1)[..., WIDTH:].view(batch, other, 2, WIDTH)
    keys, values = parts.unbind(2)
    return (x @ keys.transpose(1, 2)).softmax(-1) @ values


def next_tokens(x: T, y: T) -> T:
    """That there is a first token is no size."""
    size = y.shape[1] - 1
    mask = flamec.full((size, size), -1e9).triu(1)
    return (y[:, :-1].float() @ mask + y[:, 1:]).sum(1) + x.sum(1)


def other(batch: int, length: int) -> int:
    """A size that varies at last."""
    return 11 if (batch, length) == (5, 17) else 9


WEIGHTS = floats(WIDTH, WIDTH), floats(WIDTH, 3)
CASES: dict[str, tuple[Callable[..., T], Callable[[int, int], tuple[T, ...]]]] = {
    "tokens": (language_model(), lambda b, n: (words(b, n), words(b, n))),
    "weights": (weighted, lambda b, n: (floats(b, n, WIDTH), words(n, n) > 5, *WEIGHTS)),
    "cache": (with_cache(), lambda b, n: (words(b, n), floats(b, 2, n + 2, 4))),
    "context": (with_context, lambda b, n: (floats(b, n, WIDTH), floats(b, other(b, n), WIDTH))),
    "next token": (next_tokens, lambda b, n: (words(b, n), words(b, other(b, n)))),
    "targets": (to_one_number, lambda b, n: (floats(b, n, WIDTH), floats(b))),
}


@pytest.mark.parametrize("sizes", [BATCH_FIRST, LENGTH_FIRST, ONE_FIRST], ids=str)
@pytest.mark.parametrize("name", ["tokens", "weights", "targets"])
def test_sizes_that_vary_one_after_the_other_take_two_programs(
    name: str, sizes: list[Sizes]
) -> None:
    function, arguments = CASES[name]
    compiled = flamec.compile(function, backend="evaluate")
    for batch, length in sizes:
        given = arguments(batch, length)
        found, wanted = compiled(*given), function(*given)
        np.testing.assert_allclose(found.detach(), wanted.detach(), 1e-4, 1e-5)
    assert compiled.stats.traces == 2, compiled.stats.guard_failures


@pytest.mark.parametrize("name", ["cache", "context", "next token"])
@pytest.mark.parametrize("sizes", [BATCH_FIRST, LENGTH_FIRST], ids=str)
def test_questions_that_fix_no_size(name: str, sizes: list[Sizes]) -> None:
    test_sizes_that_vary_one_after_the_other_take_two_programs(name, sizes[:3])


def input_types(compiled: Any) -> list[str]:
    return [str(v.type) for v in compiled.programs[0].captured.graph.inputs]


def test_sizes_that_weights_and_the_code_fix_stay_numbers() -> None:
    layer = nn.Conv2d(3, 4, 3)
    compiled = flamec.compile(lambda x: layer(x).flatten(1) @ flamec.ones(4 * 6 * 5, 2))
    for batch in (4, 5):
        compiled(flamec.ones(batch, 3, 8, 7))
    assert input_types(compiled)[0] == "float32[s0, 3, 8, 7]"


def test_features_and_unchanged_floats_stay_numbers() -> None:
    compiled = flamec.compile(lambda x, w: (x.softmax(-1), w.sum()), backend="evaluate")
    for rows in (4, 5):
        compiled(flamec.ones(rows, 1, 6), flamec.ones(3, 2, 2))
    assert input_types(compiled) == ["float32[s0, 1, 6]", "float32[3, 2, 2]"]


def test_equal_companions_are_one_symbol() -> None:
    compiled = flamec.compile(lambda x, y, z: (x + y, z * 2), backend="evaluate")
    for length in (6, 7, 8):
        compiled(flamec.ones(4, length), flamec.ones(4, length), flamec.ones(4, length))
    first, second, third = input_types(compiled)
    assert first == second != third
    result = compiled(flamec.ones(3, 6), flamec.ones(3, 6), flamec.ones(9, 6))
    assert result[0].shape == (3, 6) and result[1].shape == (9, 6)
    assert compiled.stats.traces == 2


def test_what_fails_with_companions_is_traced_without() -> None:
    """A method that ints have and symbolic sizes do not."""
    compiled = flamec.compile(lambda x: x * x.shape[0].to_bytes(1, "big")[0], backend="evaluate")
    for length in (6, 7, 8):
        assert compiled(flamec.ones(4, length)).tolist() == [[4.0] * length] * 4
    assert compiled.stats.traces == 2 and input_types(compiled) == ["float32[4, s0]"]


def test_python_code_with_effects_happens_once(capsys: pytest.CaptureFixture[str]) -> None:
    layer = nn.Linear(6, 2)

    def f(x: T) -> T:
        if x.shape[1] == 17:
            print("seventeen")
        return layer(x)

    compiled = flamec.compile(f, backend="evaluate")
    with pytest.warns(RuntimeWarning, match="print"):
        for shape in ((4, 16, 6), (4, 17, 6), (5, 16, 6)):
            compiled(flamec.ones(*shape))
    assert capsys.readouterr().out == "seventeen\n"


def test_random_numbers_before_a_split_are_drawn_once() -> None:
    layer = nn.Linear(6, 6)

    def f(x: T) -> T:
        noise = flamec.rand(1)
        x = layer(x) if (x.sum() * noise).item() > 0 else x
        return x.flatten(1) + noise

    compiled = flamec.compile(f, backend="evaluate")
    results = []
    for function in (f, compiled):
        flamec.manual_seed(0)
        shapes = ((4, 5, 6), (3, 5, 6), (3, 4, 6), (4, 5, 6))
        results.append([function(flamec.ones(*shape)).detach().numpy() for shape in shapes])
    for found, wanted in zip(*results, strict=True):
        np.testing.assert_allclose(found, wanted, 1e-5, 1e-6)
