"""Benchmarks of a GPU pass over a framework that fails, and fail when flamec's result is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest


@pytest.fixture
def bandwidth(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent))
    from benchmarks.gpu import bandwidth

    yield bandwidth


class Operands:
    """Like ``benchmarks.gpu.bandwidth_check.Operands``; PyTorch's compiler fails."""

    def __init__(self, *_: Any) -> None:
        self.tensors: list[Any] = []

    def reset_state(self) -> None:
        pass

    def torch_call(self, compiled: bool) -> Any:
        if compiled:
            raise RuntimeError("a peer's error")
        return lambda: None


def run(bandwidth: Any, monkeypatch: pytest.MonkeyPatch, wrong: str) -> int:
    """Two rows without a GPU: JAX fails, too."""

    def jax_call(*_: Any) -> Any:
        raise MemoryError("JAX's error")

    def init(self: Any, seconds: float) -> None:
        self.device = SimpleNamespace(
            properties=SimpleNamespace(name="a GPU"), synchronize=lambda: None
        )
        self.clock = SimpleNamespace(flamec=lambda call: 1e-6, torch=lambda torch, call: 2e-6)
        self.torch = self.jax = object()
        self.records = []

    rows = {name: SimpleNamespace(name=name, bytes=1000, random=False) for name in ("one", "two")}
    monkeypatch.setattr(bandwidth.Bench, "__init__", init)
    monkeypatch.setattr(bandwidth.Bench, "copy", lambda self: None)
    monkeypatch.setattr(bandwidth.Bench, "_flamec", lambda *_: (lambda: None, []))
    monkeypatch.setattr(bandwidth, "programs", lambda row: None)
    monkeypatch.setattr(bandwidth, "Operands", Operands)
    monkeypatch.setattr(bandwidth, "check", lambda row, *_: wrong if row.name == "one" else "")
    monkeypatch.setattr(bandwidth, "jax_call", jax_call)
    monkeypatch.setattr(bandwidth, "WORK", rows)
    monkeypatch.setattr("sys.argv", ["bandwidth"])
    status: int = bandwidth.main()
    return status


def test_a_peer_that_fails_is_printed_and_passed_over(
    bandwidth: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(bandwidth, monkeypatch, wrong="") == 0
    printed = capsys.readouterr().out
    for row in ("one", "two"):
        assert f"{row}: torch.compile failed: a peer's error" in printed
        assert f"{row}: JAX jit failed: JAX's error" in printed
        assert f"{row}: torch eager / flamec 2.00" in printed
    assert "failed: one" not in printed


def test_a_wrong_result_is_a_failure(
    bandwidth: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(bandwidth, monkeypatch, wrong="differs by 1") == 1
    assert "failed: one\n" in capsys.readouterr().out


def test_contenders_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that fails or is late costs the others nothing, and says what it had to say."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent))
    from benchmarks.gpu.in_turns import MOST_ROUNDS, Turns, in_turns

    ready = "from benchmarks.gpu.in_turns import take_turns as t; print('a line of a library');"
    right = ready + "t({'first_call': 1}, lambda: 0.5, lambda: {'peak_bytes': 7})"
    wrong = "raise ValueError('no such algorithm')"
    contenders = {n: lambda c=code: Turns(["-c", c]) for n, code in (("b", wrong), ("a", right))}
    found = in_turns(contenders, seconds=100)
    assert "no such algorithm" in found["b"].problem and not found["b"].rounds
    assert not found["a"].problem and found["a"].rounds == [0.5] * MOST_ROUNDS
    assert found["a"].facts == {"first_call": 1, "peak_bytes": 7}
    late = Turns(["-c", "import time; time.sleep(60)"])
    assert late.answer(0.2) is None and late.problem == "was not ready in time"
    late.close()
