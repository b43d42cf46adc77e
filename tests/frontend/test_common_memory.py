"""Tensors that lie in one memory and are no views of one tensor: two ``from_numpy`` of one array,
windows of a buffer, a parameter over a tensor. Compiled functions that write are as eager ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import flamec
from flamec import nn
from flamec.common_memory import share_memory
from flamec.device_array import DeviceArray
from flamec.dlpack import ForeignMemory
from flamec.ir.types import Device

pytestmark = pytest.mark.filterwarnings("ignore:.*lies in the same memory.*runs uncompiled")
SHARING: dict[str, Callable[[], tuple[flamec.Tensor, flamec.Tensor]]] = {}


def _sharing(make: Callable[[np.ndarray], tuple[Any, Any]]) -> None:
    SHARING[make.__name__.strip("_")] = lambda: make(np.arange(1, 13, dtype=np.float32))


@_sharing
def _one_array(a):
    return flamec.from_numpy(a), flamec.from_numpy(a)


@_sharing
def _overlapping_slices(a):
    return flamec.from_numpy(a[:8]), flamec.from_numpy(a[4:])


@_sharing
def _other_strides(a):
    return flamec.from_numpy(a[::2]), flamec.from_numpy(a[::-3])


@_sharing
def _other_shape(a):
    return flamec.from_numpy(a.reshape(3, 4)), flamec.from_numpy(a[4:8])


@_sharing
def _other_type(a):
    return flamec.from_numpy(a), flamec.from_numpy(a.view(np.int32))


@_sharing
def _buffers(a):
    return flamec.frombuffer(memoryview(a), dtype=flamec.float32), flamec.from_numpy(a)


@_sharing
def _dlpack(a):
    return flamec.from_dlpack(a), flamec.from_numpy(a)


@_sharing
def _array_of_a_tensor(a):
    x = flamec.tensor(a)
    return x, flamec.from_numpy(np.asarray(x))


@_sharing
def _parameter(a):
    x = flamec.tensor(a)
    return nn.Parameter(x, requires_grad=False), x


def _write_first(x, y):
    x.add_(1)
    return y * 2


def _write_second(x, y):
    z = x * 3
    y[1:2] = 5
    return z.sum() + x.sum()


def _write_both(x, y):
    x.mul_(2)
    y.add_(1)
    return x.sum() + y.sum()


WRITING = {f.__name__.strip("_"): f for f in (_write_first, _write_second, _write_both)}


def _places(function, where: str, x, y) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The function with its tensors as arguments, captured, or one of each."""
    if where == "arguments":
        return function, (x, y)
    if where == "first captured":
        return lambda y: function(x, y), (y,)
    if where == "second captured":
        return lambda x: function(x, y), (x,)
    state = {"x": x, "y": y}
    return lambda: function(state["x"], state["y"]), ()


def _compare(make, function, where: str, backend: str) -> None:
    (x, y), (one, two) = make(), make()
    called, arguments = _places(function, where, x, y)
    compiled = flamec.compile(called, backend=backend)
    for _ in range(3):
        assert flamec.equal(compiled(*arguments), function(one, two))
        assert flamec.equal(x, one)
        assert flamec.equal(y, two)


@pytest.mark.parametrize("where", ["arguments", "first captured", "second captured", "captured"])
@pytest.mark.parametrize("name", SHARING)
def test_what_is_written_is_read_as_in_eager_mode(name: str, where: str) -> None:
    for function in WRITING.values():
        _compare(SHARING[name], function, where, "evaluate")


@pytest.mark.parametrize("where", ["arguments", "first captured", "captured"])
def test_code_in_c(where: str) -> None:
    for function in WRITING.values():
        _compare(SHARING["overlapping_slices"], function, where, "c")


def test_tensors_of_state_that_varies() -> None:
    class Holder:
        pass

    def make():
        a = np.arange(6, dtype=np.float32)
        holder = Holder()
        holder.state = flamec.from_numpy(a)
        return holder, flamec.from_numpy(a), flamec.from_numpy(a.copy())

    def step(holder, x):
        state = holder.state
        holder.state = state + 1
        x.mul_(3)
        return state * x

    mine, eager = make(), make()
    compiled = flamec.compile(lambda x: step(mine[0], x), backend="evaluate")
    for number in (1, 2, 1, 1):
        assert flamec.equal(compiled(mine[number]), step(eager[0], eager[number]))
        for holder, x, _ in (mine, eager):
            holder.state = flamec.from_numpy(x.numpy()[::-1])


@pytest.mark.parametrize("backend", ["evaluate", "c"])
def test_a_program_for_separate_memory_is_not_run_for_shared(backend: str) -> None:
    compiled = flamec.compile(_write_first, backend=backend)
    x, y = flamec.arange(4.0), flamec.arange(4.0)
    compiled(x, y)
    shared = SHARING["one_array"]()
    for given in (shared, (shared[1], y), (x, y), shared, SHARING["one_array"](), (x, shared[0])):
        wanted = (given[1] + (given[1].data_ptr() == given[0].data_ptr())) * 2
        assert flamec.equal(compiled(*given), wanted)
    assert len(compiled.programs) == 2  # for two sizes: shared memory has none
    assert "not in the same memory" in "".join(f.reason for f in compiled.stats.guard_failures)


def test_many_arguments() -> None:
    def function(tensors):
        for t in tensors[:6]:
            t.add_(1)
        return sum(tensors, flamec.zeros(3))

    def make(shared):
        tensors = [flamec.from_numpy(np.full(3, i, np.float32)) for i in range(12)]
        if shared is not None:
            tensors[shared] = flamec.from_numpy(tensors[2].numpy())
        return tensors

    compiled = flamec.compile(function, backend="evaluate")
    for shared in (None, 5, None, 11, 0, None):
        mine, eager = make(shared), make(shared)
        assert flamec.equal(compiled(mine), function(eager)), shared
        assert all(map(flamec.equal, mine, eager))
    assert len(compiled.programs) == 1


def test_a_captured_tensor_that_comes_to_lie_in_other_memory() -> None:
    a = np.arange(4, dtype=np.float32)
    state, x = flamec.zeros(4), flamec.from_numpy(a)

    def function(x):
        x.add_(1)
        return x * state

    compiled = flamec.compile(function, backend="evaluate")
    assert flamec.equal(compiled(x), flamec.zeros(4))
    state.data = flamec.from_numpy(a)
    assert flamec.equal(compiled(x), flamec.tensor([4.0, 9.0, 16.0, 25.0]))
    state.data = flamec.ones(4)
    assert flamec.equal(compiled(x), flamec.tensor([3.0, 4.0, 5.0, 6.0]))


def test_the_error_names_both() -> None:
    compiled = flamec.compile(_write_first, backend="evaluate", fullgraph=True)
    x, y = SHARING["one_array"]()
    with pytest.raises(
        flamec.errors.CompileError, match=r"writes to x, and y, .* same memory.*clone"
    ):
        compiled(x, y)
    assert flamec.equal(x, flamec.arange(1.0, 13.0))  # nothing has happened
    assert flamec.equal(compiled(x, y.clone()), flamec.arange(1.0, 13.0) * 2)


@pytest.mark.parametrize("name", ["one_array", "overlapping_slices", "other_strides"])
def test_what_only_reads_is_one_program(name: str) -> None:
    compiled = flamec.compile(lambda x, y: x.sum() + y.sum(), backend="evaluate")
    x, y = SHARING[name]()
    assert flamec.equal(compiled(x, y), x.sum() + y.sum())
    assert flamec.equal(compiled(x.clone(), y.clone()), x.sum() + y.sum())
    assert compiled.stats.traces == 1
    assert "memory" not in compiled.programs[0].check.source
    assert "share_memory" not in str(compiled.programs[0].check.namespace)


def test_neighbours_in_one_array_are_separate() -> None:
    a = np.arange(12, dtype=np.float32).reshape(3, 4)
    columns = flamec.from_numpy(a[:, 0]), flamec.from_numpy(a[:, 1])
    rows = flamec.from_numpy(a[0]), flamec.from_numpy(a[1])
    compiled = flamec.compile(_write_first, backend="evaluate", fullgraph=True)
    for x, y in (columns, rows, (rows[0], flamec.from_numpy(a[3:, :].reshape(-1)))):
        for _ in range(2):
            assert flamec.equal(compiled(x, y), y * 2)


def _element(a):
    return lambda x: x.add_(1) * float(a[0])


def _tensor_of_it(a):
    return lambda x: x.add_(1) * flamec.tensor(a)


def _total_before_and_after(a):
    def function(x):
        total = float(a.sum())
        x.add_(1)
        return x * total + float(a.sum())

    return function


def _until(a):
    def function(x):
        while a[0] < 5:  # for ever, if the program wrote only when it runs
            x.add_(1)
        return x * 2

    return function


def _seen_late(a):
    holder = {"a": a}

    def total():
        return float(holder["a"].sum())

    def function(x):
        x.add_(1)
        return x + total()

    return function


@pytest.mark.parametrize(
    "make", [_element, _tensor_of_it, _total_before_and_after, _until, _seen_late]
)
def test_an_array_that_python_reads(make: Callable[..., Any]) -> None:
    one, two = np.ones(3, np.float32), np.ones(3, np.float32)
    compiled, eager = flamec.compile(make(one), backend="evaluate"), make(two)
    one[1] = two[1] = 6
    if make is not _until:  # a program for memory elsewhere
        x, y = flamec.zeros(3), flamec.zeros(3)
        assert flamec.equal(compiled(x), eager(y))
    x, y = flamec.from_numpy(one), flamec.from_numpy(two)
    for _ in range(3):
        assert flamec.equal(compiled(x), eager(y))
        assert np.array_equal(one, two)


def _mapped_twice(x):
    return flamec.vmap(lambda a, b: a.add_(1) * 0 + b)(x, x)


def _mapped_and_whole(x):
    return flamec.vmap(lambda a, b: a.add_(1) * 0 + b.sum(), in_dims=(0, None))(x, x)


def _mapped_and_captured(x):
    return flamec.vmap(lambda a: a.add_(1) * 0 + x.sum())(x)


def _mapped_other(x, y):
    return flamec.vmap(lambda a, b: a.add_(1) * 0 + b)(x, y)


MAPPED = [_mapped_twice, _mapped_and_whole, _mapped_and_captured, _mapped_other]


@pytest.mark.parametrize("function", MAPPED)
@pytest.mark.parametrize("compiled", [False, True])
def test_vmap_refuses_writes_to_memory_that_it_reads_otherwise(
    function: Callable[..., Any], compiled: bool
) -> None:
    x = flamec.arange(4.0)
    if compiled:
        function = flamec.compile(function, backend="evaluate")
    with pytest.raises(RuntimeError, match=r"vmap: the function writes to .* shares its memory"):
        function(x, *[flamec.from_numpy(x.numpy())] * (function.__name__ == "_mapped_other"))
    assert flamec.equal(x, flamec.arange(4.0))


@pytest.mark.parametrize("compiled", [False, True])
def test_vmap_writes_where_nothing_else_is_read(compiled: bool) -> None:
    def function(x, y):
        flamec.vmap(lambda a, b, c: a.add_(b))(x, y, x)  # x is not read a second time
        return flamec.vmap(lambda a, b: a.mul_(2) + b)(x[:2], y[2:])

    called = flamec.compile(function, backend="evaluate") if compiled else function
    x = flamec.arange(4.0)
    assert flamec.equal(called(x, flamec.ones(4)), flamec.tensor([3.0, 5.0]))
    assert flamec.equal(x, flamec.tensor([2.0, 4.0, 3.0, 4.0]))


def _array_before(x):
    array = x.numpy()
    x.add_(1)
    return x * float(array[0])


def _part_before(x):
    part = np.asarray(x)[1:]
    x[1] = 5
    return x + float(part.sum())


def _tensor_of_the_array(x):
    y = flamec.from_numpy(x.numpy())
    x.add_(1)
    return y * 1


def _array_of_a_result(x):
    y = x * 2
    array = y.numpy()
    y[1:].mul_(3)
    return x + float(array.sum())


@pytest.mark.filterwarnings("ignore:.*numpy.* shares.*runs uncompiled")
@pytest.mark.parametrize(
    "function", [_array_before, _part_before, _tensor_of_the_array, _array_of_a_result]
)
def test_an_array_of_numpy_that_is_read_after_a_write(function: Callable[..., Any]) -> None:
    compiled = flamec.compile(function, backend="evaluate")
    x, y = flamec.arange(4.0), flamec.arange(4.0)
    for _ in range(3):
        assert flamec.equal(compiled(x), function(y))
        assert flamec.equal(x, y)


def test_an_array_of_numpy_that_is_gone_before_a_write() -> None:
    def function(x):
        if x.numpy().sum() > 3:
            x.sub_(x)
        return x * float(x.numpy().copy()[0])

    compiled = flamec.compile(function, backend="evaluate")
    x, y = flamec.arange(4.0), flamec.arange(4.0)
    for _ in range(3):
        assert flamec.equal(compiled(x), function(y))
        assert flamec.equal(x, y)
    assert not any("it writes to" in effect for effect in compiled.effects)


def test_memory_of_other_libraries_is_compared_by_address() -> None:
    """Each import has an object of its own for it; of what is allocated here, one is enough."""

    def array(address: int, memory: Any) -> DeviceArray:
        return DeviceArray(Device("cuda", 0), (4,), flamec.float32, address, memory)

    own, other = object(), object()
    foreign, again = ForeignMemory(0, None), ForeignMemory(0, None)
    assert share_memory(array(256, foreign), array(264, again))
    assert share_memory(array(256, own), array(264, foreign))
    assert share_memory(array(256, own), array(264, own))
    assert not share_memory(array(256, foreign), array(272, again))
    assert not share_memory(array(256, own), array(272, own))
    assert not share_memory(array(256, own), array(256, other))


def test_a_written_gradient_that_is_gone_is_another_program():
    def run(compile):
        p = flamec.ones(3).requires_grad_()
        optimizer = flamec.optim.SGD([p], lr=0.1)

        @compile
        def step(x, y):
            optimizer.zero_grad(set_to_none=False)
            ((x + y) * p).sum().backward()
            optimizer.step()
            return p.sum()

        values = []
        for rows in (1, 2, 1, 2, 1):
            values.append(step(flamec.ones(rows, 3), flamec.ones(3)).item())
            if rows == 1:
                optimizer.zero_grad()
        return values

    assert run(flamec.compile) == run(lambda f: f)
