"""Whatever a compiled function relied on may change: the next call gives the right answer."""

from __future__ import annotations

import warnings
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import flamec
from flamec import nn

SCALE = 2.0
TABLE = {"offset": 1.0, "order": [1, 2, 3]}


def scaled(x: flamec.Tensor) -> flamec.Tensor:
    return x * SCALE


def helper_scaled(x: flamec.Tensor) -> flamec.Tensor:
    return scaled(x) + TABLE["offset"] + len(TABLE["order"])


@dataclass
class Config:
    factor: float = 1.5
    bias: bool = True


def values(x: flamec.Tensor) -> np.ndarray:
    return x.detach().numpy()


def test_a_global_number_read_by_a_called_function(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = flamec.compile(helper_scaled)
    x = flamec.ones(3)
    assert values(compiled(x)).tolist() == [6.0, 6.0, 6.0]
    monkeypatch.setitem(globals(), "SCALE", 10.0)
    assert values(compiled(x)).tolist() == [14.0, 14.0, 14.0]
    assert "SCALE" in compiled.stats.guard_failures[0].reason


def test_entries_of_global_containers(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = flamec.compile(helper_scaled)
    x = flamec.ones(1)
    compiled(x)
    monkeypatch.setitem(TABLE, "offset", 5.0)
    assert compiled(x).item() == 10.0
    TABLE["order"].append(4)
    try:
        assert compiled(x).item() == 11.0
    finally:
        TABLE["order"].pop()


def test_a_closure_variable() -> None:
    power = 2

    @flamec.compile
    def f(x: flamec.Tensor) -> flamec.Tensor:
        return x**power

    x = flamec.tensor([3.0])
    assert f(x).item() == 9.0
    power = 3
    assert f(x).item() == 27.0
    assert f.stats.traces == 2


def test_attributes_of_plain_objects_and_dataclasses() -> None:
    config = Config()

    @flamec.compile
    def f(x: flamec.Tensor) -> flamec.Tensor:
        y = x * config.factor
        return y + 1 if config.bias else y

    x = flamec.tensor([2.0])
    assert f(x).item() == 4.0
    config.factor = 3.0
    assert f(x).item() == 7.0
    config.bias = False
    assert f(x).item() == 6.0
    config.bias, config.factor = True, 1.5
    assert f(x).item() == 4.0
    assert f.stats.traces == 3


class Settings:
    gain = 2.0


def test_a_class_as_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = flamec.compile(lambda x: x * Settings.gain)
    assert compiled(flamec.ones(1)).item() == 2.0
    monkeypatch.setattr(Settings, "gain", 5.0)
    assert compiled(flamec.ones(1)).item() == 5.0


def test_contents_of_sets_deques_and_arrays() -> None:
    names, queue, array = {"a"}, deque([1.0]), np.ones(2, np.float32)

    @flamec.compile
    def f(x: flamec.Tensor) -> flamec.Tensor:
        return (x + queue[0] if "a" in names else x) + flamec.tensor(array)

    x = flamec.zeros(2)
    assert f(x).tolist() == [2.0, 2.0]
    names.add("b")
    names.discard("a")
    assert f(x).tolist() == [1.0, 1.0]
    array[1] = 7.0
    assert f(x).tolist() == [1.0, 7.0]
    names.add("a")
    queue[0] = 3.0
    assert f(x).tolist() == [4.0, 10.0]


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.gain = 1.0
        self.steps = [1.0, 2.0]

    def forward(self, x: flamec.Tensor) -> flamec.Tensor:
        y = self.layer(x) * self.gain
        for s in self.steps:
            y = y + s
        return y * 2 if self.training else y


def test_module_state() -> None:
    module = Noisy()
    compiled = flamec.compile(lambda x: module(x))
    x = flamec.randn(2, 3)

    def check() -> None:
        np.testing.assert_allclose(values(compiled(x)), values(module(x)), rtol=1e-6)

    check()
    module.gain = 4.0
    check()
    module.eval()
    check()
    module.steps.append(7.0)
    check()
    module.layer = nn.Linear(3, 3)
    check()
    module.layer.weight = nn.Parameter(flamec.zeros(3, 3))
    check()
    module.layer.bias = None
    check()
    with flamec.no_grad():
        module.layer.weight.add_(1.0)
    before = compiled.stats.traces
    check()
    assert compiled.stats.traces == before, "an in-place change of a parameter is not a new program"


def test_load_state_dict_needs_no_new_program() -> None:
    module = nn.Linear(2, 2)
    compiled = flamec.compile(lambda x: module(x))
    x = flamec.ones(1, 2)
    compiled(x)
    module.load_state_dict({"weight": flamec.zeros(2, 2), "bias": flamec.ones(2)})
    assert values(compiled(x)).tolist() == [[1.0, 1.0]]
    assert compiled.stats.traces == 1


def test_default_dtype_and_grad_mode() -> None:
    compiled = flamec.compile(lambda x: x + flamec.zeros(2))
    x = flamec.ones(2, dtype=flamec.int64)
    assert compiled(x).dtype is flamec.float32
    flamec.set_default_dtype(flamec.float64)
    try:
        assert compiled(x).dtype is flamec.float64
    finally:
        flamec.set_default_dtype(flamec.float32)
    w = flamec.ones(2, requires_grad=True)
    tracked = flamec.compile(lambda x: x * w)
    assert tracked(flamec.ones(2)).requires_grad
    with flamec.no_grad():
        assert not tracked(flamec.ones(2)).requires_grad
    assert tracked(flamec.ones(2)).requires_grad


def test_dtype_rank_and_python_arguments() -> None:
    compiled = flamec.compile(lambda x, n, flag=True: x + n if flag else x - n)
    assert compiled(flamec.tensor([1]), 2).tolist() == [3]
    assert compiled(flamec.tensor([1.0]), 2).tolist() == [3.0]
    assert compiled(flamec.tensor([[1.0]]), 2).tolist() == [[3.0]]
    assert compiled(flamec.tensor([1.0]), 2, flag=False).tolist() == [-1.0]
    assert compiled(flamec.tensor([1.0]), 2, flag=True).tolist() == [3.0]
    assert compiled(flamec.tensor([1.0]), True).tolist() == [2.0]


def test_changing_numbers_become_inputs() -> None:
    compiled = flamec.compile(lambda x, a: x * a)
    x = flamec.ones(2)
    for i in range(20):
        assert compiled(x, 0.5 + i).tolist() == [0.5 + i, 0.5 + i]
    assert compiled.stats.traces == 2


def test_a_number_used_as_a_size_is_a_size_that_varies() -> None:
    compiled = flamec.compile(lambda x, n: x.sum() + flamec.ones(n).sum())
    assert [compiled(flamec.ones(2), n).item() for n in (3, 4, 5, 3, 1, 0)] == [5, 6, 7, 5, 3, 2]
    assert compiled.stats.traces == 2


def test_aliasing_between_arguments() -> None:
    def f(a: flamec.Tensor, b: flamec.Tensor) -> flamec.Tensor:
        a.add_(1.0)
        return a * b

    compiled = flamec.compile(f)
    a, b = flamec.ones(3), flamec.ones(3)
    assert compiled(a, b).tolist() == [2.0, 2.0, 2.0]
    shared = flamec.ones(3)
    assert compiled(shared, shared).tolist() == [4.0, 4.0, 4.0]
    assert shared.tolist() == [2.0, 2.0, 2.0]
    base = flamec.arange(4.0)
    assert compiled(base[:3], base[1:]).tolist() == [2.0, 6.0, 12.0 - 3.0]
    assert base.tolist() == [1.0, 2.0, 3.0, 3.0]
    other = flamec.arange(4.0)
    traces = compiled.stats.traces
    assert compiled(other[:3], other[1:]).tolist() == [2.0, 6.0, 9.0]
    assert (other.tolist(), base.tolist()) == ([1.0, 2.0, 3.0, 3.0], [1.0, 2.0, 3.0, 3.0])
    assert compiled.stats.traces == traces
    assert compiled(flamec.ones(3), flamec.ones(3)).tolist() == [2.0, 2.0, 2.0]


def test_an_argument_that_is_also_captured() -> None:
    w = flamec.ones(2)

    @flamec.compile
    def f(x: flamec.Tensor) -> flamec.Tensor:
        x.mul_(3.0)
        return x + w

    assert f(flamec.ones(2)).tolist() == [4.0, 4.0]
    assert f(w).tolist() == [6.0, 6.0]
    assert w.tolist() == [3.0, 3.0]


def test_requires_grad_toggled() -> None:
    layer = nn.Linear(2, 1)

    @flamec.compile
    def loss(x: flamec.Tensor) -> flamec.Tensor:
        value = layer(x).sum()
        value.backward()
        return value

    loss(flamec.ones(1, 2))
    assert layer.weight.grad is not None
    layer.zero_grad()
    layer.weight.requires_grad_(False)
    loss(flamec.ones(1, 2))
    assert layer.weight.grad is None
    assert layer.bias.grad.tolist() == [1.0]


@pytest.mark.parametrize("bound", [2, 8])
def test_too_many_variants_warn_with_the_guard_and_evict_the_least_recently_used(
    bound: int,
) -> None:
    state = {"shift": "0"}
    options = {} if bound == 8 else {"max_variants": bound}
    compiled = flamec.compile(lambda x: x + int(state["shift"]), **options)

    def call(shift: int) -> None:
        state["shift"] = str(shift)
        assert compiled(flamec.zeros(1)).item() == shift

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for shift in range(bound):
            call(shift)
        call(0)  # so that 1 is the least recently used
    with pytest.warns(RuntimeWarning, match=r"least recently used.*'shift'.* == ") as seen:
        call(bound)
    assert compiled.stats.evictions == 1
    traces = compiled.stats.traces
    for shift in (0, *range(2, bound + 1)):
        call(shift)
    assert compiled.stats.traces == traces == bound + 1
    call(1)
    assert compiled.stats.traces == bound + 2 and compiled.stats.evictions == 2
    assert len(seen) == 1 and len(compiled.programs) == bound


def test_structures_of_arguments() -> None:
    compiled = flamec.compile(lambda d: d["a"] + sum(d["b"]))
    one = flamec.ones(1)
    assert compiled({"a": one, "b": [one, one]}).item() == 3
    assert compiled({"a": one, "b": [one]}).item() == 2
    assert compiled({"b": [one], "a": one}).item() == 2


@pytest.mark.parametrize("base", [object, nn.Module])
def test_an_attribute_that_was_absent_may_appear(base: type) -> None:
    """A module looks for attributes among its parameters too; what is in none is guarded."""

    owner = type("Owner", (base,), {})()

    @flamec.compile
    def function(x):
        return x * getattr(owner, "extra", 1.0) + (1.0 if hasattr(owner, "more") else 0.0)

    x = flamec.ones(2)
    assert function(x).tolist() == [1.0, 1.0]
    owner.extra = 3.0
    assert function(x).tolist() == [3.0, 3.0]
    owner.more = nn.Parameter(flamec.ones(1))
    assert function(x).tolist() == [4.0, 4.0]
    del owner.extra, owner.more
    assert function(x).tolist() == [1.0, 1.0]


def test_equal_programs_keep_their_own_captured_tensors() -> None:
    """Two variants with equal graphs, each with another captured tensor, are called in turn."""
    weights = {"a": flamec.full((3,), 2.0), "b": flamec.full((3,), 5.0)}

    @flamec.compile
    def scaled(x: flamec.Tensor, name: str) -> flamec.Tensor:
        return x * weights[name]

    x = flamec.ones(3)
    for name in "abaabb":
        assert scaled(x, name).tolist() == weights[name].tolist()
    assert scaled.stats.traces == 2


def test_requires_grad_of_a_tensor_that_is_only_asked() -> None:
    flag = flamec.ones(1).requires_grad_()

    @flamec.compile
    def function(x):
        return x * (2.0 if flag.requires_grad else 3.0)

    assert function(flamec.ones(1)).item() == 2.0
    flag.requires_grad_(False)
    assert function(flamec.ones(1)).item() == 3.0


def test_captured_tensors_that_cease_to_share_memory() -> None:
    base = flamec.arange(6.0).reshape(2, 3)
    row = base[1]

    @flamec.compile
    def function(x):
        return x + base.sum() + row

    x = flamec.zeros(3)
    assert function(x).tolist() == [18.0, 19.0, 20.0]
    base.data = flamec.zeros(2, 3)  # the row keeps the old memory
    assert function(x).tolist() == [3.0, 4.0, 5.0]
    row.fill_(1.0)
    assert function(x).tolist() == [1.0, 1.0, 1.0]
    row.data = base[0]
    base.add_(2.0)
    assert function(x).tolist() == [14.0, 14.0, 14.0]


def test_a_captured_tensor_that_comes_to_overlap_itself() -> None:
    """Its elements are looked at again when its array is another; the types are the same."""
    w = flamec.zeros(3)

    @flamec.compile
    def f(x):
        w.add_(x)
        return w * 1.0

    assert f(flamec.ones(3)).tolist() == [1.0, 1.0, 1.0]
    w.data = flamec.zeros(1).expand(3)
    with pytest.raises(RuntimeError, match="share one place in memory"):
        f(flamec.ones(3))
    w.data = flamec.zeros(3)
    assert f(flamec.ones(3)).tolist() == [1.0, 1.0, 1.0]
    assert f.stats.traces <= 3


def test_classes_of_code_without_a_module_name_are_watched() -> None:
    names: dict[str, Any] = {}
    exec("class State: pass\nstate = State()\nstate.gain = 'a'", names)
    state = names["state"]
    assert type(state).__module__ == "builtins"
    compiled = flamec.compile(lambda x: x * (2 if state.gain == "a" else 3))
    assert compiled(flamec.ones(1)).item() == 2
    state.gain = "b"
    assert compiled(flamec.ones(1)).item() == 3
