"""The programs under examples/ run, and learn what they are given."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
from gpt2_example import SOURCE, example

import flamec


def test_gpt2_learns_a_chain_of_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--small", "--device", "cpu", "--steps", "40", "--batch", "16"]
    losses = example().main(arguments)
    printed = capsys.readouterr().out
    assert "34,688 parameters, float32 on cpu" in printed and "tokens/s" in printed
    assert abs(losses[0] - np.log(256)) < 0.1
    assert losses[-1] < losses[0] - 1.5
    assert f"loss {losses[0]:.3f} -> " in printed


def test_gpt2_learns_a_text(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("to be or not to be, " * 20)
    options = ["--small", "--device", "cpu", "--steps", "30", "--batch", "4", "--text", str(text)]
    losses = example().main([*options, "--sequence", "16"])
    assert losses[-1] < 2.0 < losses[0]
    text.write_text("too short")
    with pytest.raises(SystemExit):
        example().main(options)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_gpt2_compiled_follows_eager(dropout: float) -> None:
    gpt2 = example()
    config = gpt2.replace(gpt2.SMALL, dropout=dropout)
    curves = []
    for compiled in (False, True):
        flamec.manual_seed(0)
        training = gpt2.Training(config, rate=6e-3)
        step = flamec.compile(training.step) if compiled else training.step
        data = gpt2.batches(gpt2.chain(64, 2000), 4, 24)
        losses = []
        for _ in range(12):
            losses.append(step(*next(data)).item())
            training.schedule.step()
        curves.append(losses)
        if compiled:
            assert step.stats.traces == 1  # also the learning rate changes at each step
    np.testing.assert_allclose(*curves, rtol=2e-4)
    assert curves[0][-1] < curves[0][0] - 0.2


def test_gpt2_has_124_million_parameters() -> None:
    gpt2 = example()
    sizes = gpt2.Config()
    width, layers = sizes.width, sizes.layers
    block = 12 * width**2 + 13 * width
    count = (sizes.vocabulary + sizes.context) * width + layers * block + 2 * width
    assert count == 124_475_904
    small = gpt2.GPT2(gpt2.SMALL)
    width, layers = gpt2.SMALL.width, gpt2.SMALL.layers
    block = 12 * width**2 + 13 * width
    wanted = (gpt2.SMALL.vocabulary + gpt2.SMALL.context) * width + layers * block + 2 * width
    assert sum(p.numel() for p in small.parameters()) == wanted
    assert small.head.weight is small.token.weight


def test_classifier(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(SOURCE.parent / "classifier.py"), run_name="__main__")
    printed = capsys.readouterr().out.splitlines()
    losses = [float(line.split()[-1]) for line in printed if line.startswith("step")]
    assert len(losses) == 6 and losses[-1] < losses[0] / 2
