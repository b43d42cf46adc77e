"""``flamec.compiler.disable`` and ``reset``."""

from __future__ import annotations

import pytest

import flamec
from flamec import nn
from flamec.errors import CompileError


@pytest.mark.filterwarnings("ignore:.*log is called, which is disabled")
def test_python_code_of_a_disabled_function_runs_at_each_call() -> None:
    seen = []

    @flamec.compiler.disable
    def log(x: flamec.Tensor) -> flamec.Tensor:
        seen.append(len(seen))
        return x + 1

    compiled = flamec.compile(lambda x: log(x * 2) * 3)
    for value in (0.0, 1.0, 2.0):
        assert compiled(flamec.full((2,), value)).tolist() == [value * 6 + 3] * 2
    assert seen == [0, 1, 2] and compiled.stats.python_runs == 3
    assert log(flamec.ones(1)).item() == 2.0


def test_a_disabled_function_is_no_part_of_one_program() -> None:
    layer = flamec.compiler.disable(nn.Linear(2, 2), reason="it is new")
    assert isinstance(layer, nn.Linear)
    compiled = flamec.compile(nn.Sequential(layer, nn.ReLU()), fullgraph=True)
    with pytest.raises(CompileError, match=r"Linear.forward is called.*disabled \(it is new\)"):
        compiled(flamec.ones(1, 2))


def test_reset_forgets_programs() -> None:
    compiled = flamec.compile(lambda x: x * 2, backend="evaluate")
    compiled(flamec.ones(2))
    flamec.compiler.reset()
    assert compiled.stats.traces == 0 and not compiled.programs
    assert compiled(flamec.ones(2)).tolist() == [2.0, 2.0] and compiled.stats.traces == 1
