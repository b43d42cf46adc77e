"""Lists, dicts and dataclasses among the arguments: what a function does to them happens."""

from __future__ import annotations

import dataclasses
import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest

import flamec

T = flamec.Tensor


@dataclasses.dataclass
class Batch:
    x: Any
    parts: list[Any]
    count: int = 0


def append(x: T, box: dict[str, Any]) -> Any:
    box["list"].append(x * 2)
    return x + len(box["list"])


def assign(x: T, box: dict[str, Any]) -> Any:
    box["list"][0] = x + 1
    box["new"] = (x.sum(), "text", None)
    box["n"] += 1
    return box["list"][0] * box["n"]


def remove(x: T, box: dict[str, Any]) -> Any:
    last = box["list"].pop()
    del box["n"]
    return x + last


def swap(x: T, box: dict[str, Any]) -> Any:
    box["list"].reverse()
    box["list"].append(x)
    return box["list"][0] * 2


def replace(x: T, box: dict[str, Any]) -> Any:
    old = box["list"]
    box["list"] = [old, x * 3, {"of": old[0]}]
    old.clear()
    return x


def nest(x: T, box: dict[str, Any]) -> Any:
    box["inner"] = {"deep": [x * 2, [x - 1]]}
    box["inner"]["deep"].append(box["list"])
    return x


def change_fields(x: T, box: dict[str, Any]) -> Any:
    batch = box["batch"]
    batch.x = batch.x * x
    batch.parts.extend([x, x + 1])
    batch.count += 2
    return batch.x


def keep_order(x: T, box: dict[str, Any]) -> Any:
    ordered = box["ordered"]
    ordered.move_to_end("a")
    ordered["c"] = x
    return ordered["a"] + x


def write_in_place_too(x: T, box: dict[str, Any]) -> Any:
    box["list"][0].mul_(2)
    box["list"].append(box["list"][0])
    box["list"].append(box["list"][0][:1])
    return x + box["list"][0]


def return_it(x: T, box: dict[str, Any]) -> Any:
    box["list"].append(x)
    return box, box["list"]


def only_read(x: T, box: dict[str, Any]) -> Any:
    box.setdefault("n", 5)
    box["list"].append(x)
    box["list"].pop()
    return x + sum(box["list"])


def split(x: T, box: dict[str, Any]) -> Any:
    box["list"].append(x * 2)
    if x.sum() > 3:
        box["n"] = "large"
        return x - 1
    box["list"].append(x.sum().item())
    return x


def with_gradients(x: T, box: dict[str, Any]) -> Any:
    box["list"].append((x * 2).detach())
    box["n"] = x.detach().sum().item()
    return (x * x).sum()


FUNCTIONS = [
    append, assign, remove, swap, replace, nest, change_fields, keep_order, write_in_place_too,
    return_it, only_read, split, with_gradients,
]  # fmt: skip


def box_of(value: float) -> dict[str, Any]:
    a, b = flamec.full((2,), value), flamec.full((2,), value + 0.5)
    ordered = OrderedDict(a=a, b=b)
    return {"list": [a, b], "n": 3, "batch": Batch(a, [b]), "ordered": ordered}


def plain(value: Any) -> Any:
    if isinstance(value, T):
        return value.tolist()
    if isinstance(value, Batch):
        return [plain(value.x), plain(value.parts), value.count]
    if isinstance(value, dict):
        return [type(value).__name__, *((k, plain(v)) for k, v in value.items())]
    if isinstance(value, (list, tuple)):
        return [type(value).__name__, *map(plain, value)]
    return value


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_callers_container_is_changed(function: Callable[[T, Any], Any]) -> None:
    compiled = flamec.compile(function, backend="evaluate")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for value in (1.0, 2.0, 1.5, 3.0):
            outcomes = []
            for call in (function, compiled):
                x = flamec.full((2,), value)
                x.requires_grad_(function is with_gradients)
                box = box_of(value)
                items, batch, first = box["list"], box["batch"], box["list"][0]
                result = call(x, box)
                if function is with_gradients:
                    result.backward()
                    outcomes.append(x.grad.tolist())  # type: ignore[union-attr]
                same = [
                    any(v is x for v in items), any(v is first for v in items),
                    box["list"] is items, box["batch"] is batch,
                    result is box or (isinstance(result, tuple) and result[0] is box),
                ]  # fmt: skip
                outcomes.append([plain(result), plain(box), plain(items), plain(x), same])
            half = len(outcomes) // 2
            assert outcomes[half:] == outcomes[:half]
    assert compiled.stats.python_runs == 0
    assert compiled.stats.traces == (2 if function is split else 1)


def test_in_a_program_of_machine_code() -> None:
    compiled = flamec.compile(append)
    for value in (1.0, 2.0, 3.0):
        box = box_of(value)
        assert compiled(flamec.full((2,), value), box).tolist() == [value + 3] * 2
        assert box["list"][2].tolist() == [value * 2] * 2
    assert compiled.stats.traces == 1


def test_keyword_arguments_and_python_effects() -> None:
    log: list[int] = []

    @flamec.compile
    def function(x: T, *, box: list[Any]) -> T:
        log.append(len(box))
        box.append(x + 1)
        print("called")
        return x * 2

    with pytest.warns(RuntimeWarning, match="run at each call"):
        for n in range(3):
            box: list[Any] = [n]
            assert function(flamec.ones(1), box=box).tolist() == [2.0]
            assert box[0] == n and box[1].tolist() == [2.0]
    assert log == [1, 1, 1]


def test_a_list_that_grows_from_call_to_call() -> None:
    compiled = flamec.compile(lambda x, cache: cache.append(x * len(cache)), backend="evaluate")
    cache: list[Any] = []
    for _ in range(5):
        compiled(flamec.ones(1), cache)
    assert [t.item() for t in cache] == [0, 1, 2, 3, 4]


def _identities(value: Any, known: dict[int, int]) -> Any:
    """A nested value with numbers for lists: equal ones for the same list."""
    if isinstance(value, T):
        return value.tolist()
    if isinstance(value, dict):
        return {key: _identities(v, known) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        own = known.setdefault(id(value), len(known)) if isinstance(value, list) else None
        return own, [_identities(v, known) for v in value]
    return value


def test_one_list_several_times() -> None:
    """It is one list in the function, too, and in what it returns."""

    def function(a: list[Any], b: list[Any], box: dict[str, Any]) -> Any:
        a.append(a[0] * 2)
        b[0] = b[0] + len(b)
        box["x"].append(len(b))
        return a, (b, box["y"]), a is b

    compiled = flamec.compile(function, backend="evaluate")
    for _ in range(2):
        for names in ("aab", "abb", "aba", "aaa", "abc"):
            found = []
            for run in (function, compiled):
                lists = {name: [flamec.full((2,), float(ord(name)))] for name in "abc"}
                first, second, third = (lists[name] for name in names)
                arguments = first, second, {"x": third, "y": lists["a"]}
                result = run(*arguments)
                found.append(_identities((arguments, result), {}))
            assert found[0] == found[1], names
    assert (compiled.stats.traces, compiled.stats.python_runs) == (5, 0)


def test_a_list_that_is_read_twice_is_told_from_equal_lists() -> None:
    compiled = flamec.compile(lambda a, b: a[0] + 2 * b[0], backend="evaluate")
    one = [flamec.ones(1)]
    assert compiled(one, one).item() == 3
    assert compiled(one, [flamec.zeros(1)]).item() == 1
    assert compiled([flamec.zeros(1)], one).item() == 2


def _with_gradients(kind: str, x: T, box: list[T], leaf: T) -> Any:
    y = leaf * 2.0
    box[0] = y
    match kind:
        case "returned":
            return y
        case "a view is returned":
            return y[1:]
        case "appended":
            box.append(y.sum())
            return x, y * 3.0
        case "removed":
            del box[0]
        case "without gradients":
            with flamec.no_grad():
                box[0] = leaf * 2.0
        case "detached":
            box[0] = y.detach()
        case "an argument":
            box[0] = x
        case "a leaf":
            box[0] = leaf
    return x


@pytest.mark.parametrize("tracked", [False, True])
@pytest.mark.parametrize(
    "kind",
    [
        *("returned", "a view is returned", "appended", "removed", "without gradients"),
        *("detached", "an argument", "a leaf", "put there"),
    ],
)
def test_gradients_of_what_is_put_into_a_list(kind: str, tracked: bool) -> None:
    leaf = flamec.tensor([1.0, 2.0, 3.0], requires_grad=True)

    def seen(function: Callable[..., Any]) -> Any:
        for _ in range(2):
            leaf.grad = None
            x, box = flamec.ones(3).requires_grad_(tracked), [flamec.zeros(3)]
            result = function(kind, x, box, leaf)
        results = [*box, *(result if isinstance(result, tuple) else (result,))]
        states = [(t.tolist(), t.requires_grad, t.is_leaf) for t in results]
        same = [[a is b for a in (x, leaf, *results)] for b in results]
        roots = [t.sum() for t in results if t.requires_grad]
        if roots:
            flamec.stack(roots).sum().backward()
        gradients = [None if t.grad is None else t.grad.tolist() for t in (x, leaf)]
        return states, same, gradients

    compiled = flamec.compile(_with_gradients, backend="evaluate")
    assert seen(compiled) == seen(_with_gradients)


def test_what_is_put_into_a_list_after_backward_has_freed_it() -> None:
    leaf = flamec.ones(3).requires_grad_()

    def function(x: T, box: list[T]) -> T:
        box.append(leaf * 3.0)
        (x * box[0]).sum().backward()
        box.append(leaf * 2.0)
        return x

    for each in (function, flamec.compile(function, backend="evaluate")):
        box: list[T] = []
        each(flamec.ones(3), box)
        assert [t.requires_grad for t in box] == [True, True]
        box[1].sum().backward()
        with pytest.raises(RuntimeError, match="second time"):
            box[0].sum().backward()
