"""The example on sounds learns, at small size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from example_programs import program


def test_audio(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main = program("audio", "flamec", tmp_path).main
    words = ["--width", "4", "--steps", "60", "--batch", "16", "--test", "200"]
    losses, accuracy = main(words)
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == f"accuracy on 200 unheard sounds: {accuracy:.1%}"
    assert losses.shape == (60,) and losses[-10:].mean() < losses[:10].mean() * 0.75
    assert accuracy > 0.35  # guessing: 0.125


def test_sounds_depend_on_their_number_alone(tmp_path: Path) -> None:
    audio = program("audio", "flamec", tmp_path)
    tones = audio.Tones(50, seed=3)
    found, kind = tones[7]
    again, same = audio.Tones(8, seed=3)[7]
    np.testing.assert_array_equal(found, again)
    assert kind == same and found.shape == (1, audio.BANDS, audio.FRAMES)
    assert {tones[n][1] for n in range(50)} == set(range(8))


def test_a_spectrogram_finds_the_pitch(tmp_path: Path) -> None:
    """The loudest band of a sine is the one that its frequency falls into."""
    audio = program("audio", "flamec", tmp_path)
    loudest = []
    for pitch in (200, 800, 3000):
        sound = np.sin(2 * np.pi * pitch * np.arange(audio.LENGTH) / audio.RATE)
        bands = audio.spectrogram(sound).argmax(0)
        assert np.ptp(bands) == 0
        loudest.append(bands[0])
    assert loudest == sorted(set(loudest))
