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
