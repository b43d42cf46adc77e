"""The programs under ``examples/`` at small size on a GPU.

Where a program draws no random numbers on its device, its first losses are those of the CPU.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from example_programs import program

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("float32_convolutions")]

# words, whether the first losses are the CPU's, and by what factor they must have fallen
RUNS = {
    "cnn --channels 8 --epochs 3": (True, 0.5),
    "cnn --model resnet --channels 8 --epochs 2": (True, 0.7),
    "gpt2 --small --dtype float32 --steps 30 --batch 8": (True, 0.95),
    "gpt2 --small --dtype bfloat16 --steps 30 --batch 8": (False, 0.95),
    "character_gpt --width 32 --layers 1 --context 32 --steps 60": (True, 0.9),
    "gan --width 8 --epochs 2": (False, 2.0),
    "diffusion --width 8 --epochs 3 --times 20 --count 50": (False, 0.95),
    "vae --width 64 --epochs 5": (False, 0.9),
    "policy_gradient --width 16 --updates 4 --count 4": (False, 20.0),
    "dqn --width 16 --steps 60 --batch 32": (True, 20.0),
    "audio --width 4 --steps 24 --test 64": (True, 1.0),
    "bert --width 16 --layers 1 --length 16 --pretrain 20 --steps 20": (False, 1.0),  # dropout
}
CLOSE = 5  # losses that are compared


def losses_of(words: str, device: str, folder: Path) -> np.ndarray:
    folder.mkdir(exist_ok=True)
    name, *arguments = shlex.split(words)
    found: Any = program(name, "flamec", folder).main(["--device", device, *arguments])
    first = found[0] if isinstance(found, tuple) else found
    return np.asarray(first, np.float64)


@pytest.mark.parametrize("words", RUNS)
def test_an_example(words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where pictures are written
    like_the_cpu, factor = RUNS[words]
    losses = losses_of(words, "cuda", tmp_path / "cuda")
    assert len(losses) and np.isfinite(losses).all()
    quarter = max(1, len(losses) // 4)
    assert losses[-quarter:].mean() < factor * losses[:quarter].mean()
    if like_the_cpu:
        wanted = losses_of(words, "cpu", tmp_path / "cpu")
        assert wanted.shape == losses.shape
        np.testing.assert_allclose(losses[:CLOSE], wanted[:CLOSE], rtol=2e-3, atol=1e-4)


def test_the_table_of_patients(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("pandas")
    words = ["--epochs", "15", "--folds", "3", "--width", "16"]
    main = program("tabular", "flamec", tmp_path).main
    found, wanted = (main(["--device", device, *words]) for device in ("cuda", "cpu"))
    assert found.keys() == wanted.keys()
    for way, score in wanted.items():
        assert found[way] == pytest.approx(score, abs=0.02)
