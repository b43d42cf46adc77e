"""The minimum cut against every possible choice."""

from __future__ import annotations

import itertools
import random
from collections.abc import Hashable, Mapping, Sequence

import pytest

from flamec.ir.passes.keep_or_repeat import NEVER, Item, keep_or_repeat


def price(
    items: Mapping[Hashable, Item], required: Sequence[Hashable], kept: set[Hashable]
) -> float:
    """What it costs to keep these and to compute the rest that is needed."""
    total, pending, seen = 0.0, list(required), set()
    while pending:
        key = pending.pop()
        if key in seen:
            continue
        seen.add(key)
        item = items[key]
        total += item.keep if key in kept else item.repeat
        if key not in kept:
            pending.extend(item.needs)
    return total


def random_items(seed: int) -> tuple[dict[Hashable, Item], list[Hashable]]:
    rng = random.Random(seed)
    count = rng.randrange(2, 9)
    items: dict[Hashable, Item] = {}
    for i in range(count):
        needs = tuple(rng.sample(range(i), min(i, rng.randrange(3))))
        keep = rng.choice((1.0, 2.0, 5.0, 9.0, NEVER if needs else 3.0))
        repeat = rng.choice((0.0, 1.0, 2.0, 4.0, NEVER)) if needs else NEVER
        if keep == repeat == NEVER:
            keep = 7.0
        items[i] = Item(i, keep, repeat, needs)
    return items, rng.sample(range(count), rng.randrange(1, count + 1))


@pytest.mark.parametrize("seed", range(60))
def test_no_choice_is_cheaper(seed: int) -> None:
    items, required = random_items(seed)
    kept, again = keep_or_repeat(items.values(), required)
    assert not kept & again and set(required) <= kept | again
    assert all(need in kept | again for key in again for need in items[key].needs)
    found = sum(items[k].keep for k in kept) + sum(items[k].repeat for k in again)
    choices = (
        set(some) for size in range(len(items) + 1) for some in itertools.combinations(items, size)
    )
    assert found == min(price(items, required, choice) for choice in choices)


def test_nothing_is_required() -> None:
    assert keep_or_repeat([Item("x", 1.0, NEVER)], []) == (set(), set())
