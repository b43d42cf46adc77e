"""The examples that draw digits learn to, at small size, and write their pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from example_programs import program

pytest.importorskip("sklearn")


def test_gan_and_diffusion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pictures come closer to digits in the eyes of a judge."""
    cases: list[tuple[str, list[str], float]] = [
        ("gan", ["--width", "8", "--epochs", "8"], 0.7),
        ("diffusion", ["--width", "8", "--times", "20", "--epochs", "12", "--count", "200"], 0.6),
    ]
    for name, words, share in cases:
        picture = tmp_path / f"{name}.png"
        example: Any = program(name, "flamec", tmp_path)
        losses, (before, after) = example.main([*words, "--picture", str(picture)])
        printed = capsys.readouterr().out.splitlines()
        assert (
            printed[-1] == f"distance of drawn digits from real ones: {before:.1f} -> {after:.1f}"
        )
        assert np.isfinite(losses).all()
        assert after < share * before, name
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_vae(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "vae.png"
    main = program("vae", "flamec", tmp_path).main
    losses, (before, after) = main(["--width", "64", "--epochs", "10", "--picture", str(picture)])
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == f"nats for an unseen digit: {before:.2f} -> {after:.2f}"
    assert losses.shape == (220,)
    assert after < 30 < 44 < before
    assert picture.stat().st_size > 1000


def test_the_distance_of_normal_distributions(tmp_path: Path) -> None:
    """Against the closed form for covariances that commute, and it is 0 for equal sets."""
    frechet = program("judge", "flamec", tmp_path).frechet_distance
    random = np.random.default_rng(0)
    first = random.standard_normal((200_000, 3)) * [1.0, 2.0, 3.0]
    second = random.standard_normal((200_000, 3)) * [2.0, 2.0, 1.0] + [1.0, 0.0, 2.0]
    assert abs(frechet(first, second) - (1 + 4 + 1 + 0 + 4)) < 0.1
    assert abs(frechet(first, first)) < 1e-9
