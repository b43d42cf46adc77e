"""Other GPUs than before: what the frontend remembers of GPUs is forgotten for a test."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping

import pytest

from flamec import arithmetic_in_place, eager_programs, fused_call, fusing, gpu, gpu_eager, random
from flamec.functional import arguments, promotion
from flamec.gpu import Gpu


def forget_gpus(monkeypatch: pytest.MonkeyPatch, gpus: Mapping[int, Gpu]) -> None:
    """Let the frontend know ``gpus`` alone, by number, and no programs and arrays for others."""
    monkeypatch.setattr(gpu, "_gpus", dict(gpus))
    monkeypatch.setattr(eager_programs, "_programs", {})
    monkeypatch.setattr(gpu_eager, "_calls", gpu_eager._OfThread())
    monkeypatch.setattr(arithmetic_in_place, "_calls", arithmetic_in_place._OfThread())
    monkeypatch.setattr(fusing, "_calls", fusing._Calls())
    monkeypatch.setattr(fused_call, "_programs", {})
    monkeypatch.setattr(fused_call, "_signatures", Counter())
    monkeypatch.setattr(fused_call, "_numbers", defaultdict(set))
    monkeypatch.setattr(arguments, "_present", set())
    monkeypatch.setattr(promotion, "_CONSTANTS", {})
    monkeypatch.setattr(random, "_gpu_generators", {})
