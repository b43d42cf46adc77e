"""What is compiled is there for the next process: it compiles, imports and starts nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import flamec
from tests.own_process import run_python


def run(device: str, cache: Path) -> dict[str, Any]:
    finished = run_python("-m", "tests.second_process", device, cache=cache)
    assert finished.returncode == 0, finished.stderr
    found: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return found


_GPU = pytest.mark.skipif(not flamec.cuda.is_available(), reason="there is no GPU")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, _GPU])])
def test_a_training_step_in_a_second_process(device: str, tmp_path: Path) -> None:
    first, second = run(device, tmp_path), run(device, tmp_path)
    assert first["compiled"] > 0 and first["heavy"] and first["started"]
    assert second["compiled"] == 0
    assert second["cached"] == first["compiled"] + first["cached"]
    assert second["heavy"] == []
    assert second["started"] == []
    assert second["loss"] == first["loss"]
