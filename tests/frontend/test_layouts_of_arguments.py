"""What a compiled function is told of where its tensors lie: what eager code is told, guarded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flamec
from flamec.errors import CompileError

T = flamec.Tensor


def answers(x: T) -> Any:
    flat = x.transpose(0, 1)
    return (
        x.is_contiguous(), x.stride(), x.stride(0), x.storage_offset(), flat.is_contiguous(),
        flat.stride(), x[1:].is_contiguous(), x[1:].storage_offset(), x[:, 1:].is_contiguous(),
    )  # fmt: skip


def asked(x: T) -> Any:
    return (x * 2).sum(), answers(x)


def through_memory(x: T) -> Any:
    y = x.reshape(-1)
    y.add_(1)
    z = x.contiguous()
    z.mul_(2)
    return x * 1, y * 1


def viewed(x: T) -> Any:
    return x.view(-1) * 2


def returned(x: T) -> Any:
    return x.reshape(-1), x.contiguous()


def strided(x: T) -> Any:
    return x.as_strided((2,), (1,)) * 2


FUNCTIONS = [asked, through_memory, viewed, returned, strided]

ARGUMENTS: dict[str, Callable[[T, int, int], T]] = {
    "dense": lambda b, n, m: b[:n, :m].clone(),
    "transposed": lambda b, n, m: b[:m, :n].clone().t(),
    "transposed part": lambda b, n, m: b[:m, :n].t(),
    "part": lambda b, n, m: b[:n, :m],
    "later part": lambda b, n, m: b[1 : n + 1, 2 : m + 2],
    "rows": lambda b, n, m: b[:, :m].clone()[1 : n + 1],
    "steps": lambda b, n, m: b[: 2 * n : 2, : 2 * m : 2],
    "expanded rows": lambda b, n, m: b[0, :m].expand(n, m),
    "expanded columns": lambda b, n, m: b[:n, :1].expand(n, m),
    "of NumPy": lambda b, n, m: flamec.from_numpy(np.asfortranarray(b[:n, :m].numpy())),
}
SHAPES = [(4, 4), (4, 4), (3, 4), (2, 2)]
EXACT = [*SHAPES, (4, 1), (1, 4), (1, 1)]  # whose layouts have strides that say nothing


def outcome(function: Callable[[T], Any], name: str, shape: tuple[int, int]) -> Any:
    base = flamec.arange(100.0).reshape(10, 10)
    x = ARGUMENTS[name](base, *shape)
    try:
        found = function(x)
    except RuntimeError as error:
        return type(error).__name__, str(error).split()[0]
    if function is returned or getattr(function, "function", None) is returned:
        for part in found if "expanded" not in name else ():
            part.add_(1)  # which the argument sees, or does not
    return plain(found), x.tolist(), base.tolist()


def plain(value: Any) -> Any:
    if isinstance(value, T):
        return value.tolist()
    return [plain(v) for v in value] if isinstance(value, tuple) else value


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("dynamic", [None, False])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_layouts_of_arguments(
    function: Callable[[T], Any], dynamic: bool | None, data: st.DataObject
) -> None:
    shapes = st.sampled_from(EXACT if dynamic is False else SHAPES)
    argument = st.tuples(st.sampled_from([*ARGUMENTS]), shapes)
    calls = data.draw(st.lists(argument, min_size=2, max_size=8))
    compiled = flamec.compile(function, backend="evaluate", dynamic=dynamic, max_variants=32)
    for name, shape in calls:
        wanted = outcome(function, name, shape)
        assert outcome(compiled, name, shape) == wanted, (name, shape)


def test_a_layout_is_guarded_only_if_it_was_asked_for() -> None:
    base = flamec.arange(16.0).reshape(4, 4)
    sums = flamec.compile(lambda x: (x * 2).reshape(-1).sum() + x.reshape(-1).sum())
    told = flamec.compile(lambda x: x.sum() * (2 if x.is_contiguous() else 3))
    for x in (base, base.t(), base[:].t()):
        assert sums(x).item() == 360.0
        assert told(x).item() == 120.0 * (2 if x.is_contiguous() else 3)
    assert sums.stats.traces == 1 and told.stats.traces == 2
    assert "a0._array.flags.c_contiguous" in told.programs[-1].check.source
    assert "contiguous" not in sums.programs[0].check.source


def test_layouts_of_captured_tensors() -> None:
    state = {"w": flamec.arange(12.0).reshape(3, 4)}
    holder = flamec.ones(4, 3)
    compiled = flamec.compile(lambda x: (x * 1, holder.stride(), holder.is_contiguous()))
    for source in (flamec.ones(4, 3), state["w"].t(), flamec.ones(8, 3)[::2], flamec.zeros(4, 3)):
        holder.data = source
        assert compiled(flamec.ones(1))[1:] == (source.stride(), source.is_contiguous())
    assert compiled.stats.traces == 3


@pytest.mark.filterwarnings("ignore:.*run at each call:RuntimeWarning")
def test_addresses() -> None:
    """Those of the memory that the call has, not of copies of it."""
    captured = flamec.rand(4, 3)

    def compared(x: flamec.Tensor) -> tuple[bool, bool, int]:
        begin = x.data_ptr()
        same = captured.data_ptr() == captured.t().data_ptr()
        return same, begin == captured.data_ptr(), x[1:].data_ptr() - begin

    compiled = flamec.compile(compared, backend="evaluate", dynamic=True)
    for x in (flamec.ones(4, 3), captured, flamec.ones(5, 7), captured[:, 1:]):
        assert compiled(x) == compared(x)
    with pytest.raises(CompileError, match=r"data_ptr\(\) of a tensor that it has computed"):
        flamec.compile(lambda x: (x + 1).data_ptr())(captured)
