"""The character GPT learns a book; writing with a cache equals writing without."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from example_programs import program

import flamec

SIZES = ["--layers", "1", "--heads", "2", "--width", "32", "--context", "32"]


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    return program("character_gpt", "flamec", tmp_path_factory.mktemp("examples"))


def test_it_learns_and_writes(example: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    losses, (before, after), written = example.main([*SIZES, "--steps", "200", "--batch", "16"])
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == f"nats for an unseen letter: {before:.3f} -> {after:.3f}"
    assert written in printed and len(written) == 32 and written.startswith("Alice ")
    assert losses.shape == (200,)
    assert abs(before - np.log(72)) < 0.1  # the book has 72 different letters
    assert after < 2.75


def small(example: SimpleNamespace, layers: int = 2) -> tuple[SimpleNamespace, SimpleNamespace]:
    flamec.manual_seed(1)
    config = example.Config(vocabulary=11, context=24, layers=layers, heads=2, width=16)
    model = example.Training(config).model
    with flamec.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8)  # so that positions and earlier tokens make a difference
    return model.double(), config


@pytest.mark.parametrize("cuts", [(24,), (1,) * 24, (7, 1, 1, 5, 1, 9)])
def test_logits_with_a_cache_are_those_without(
    example: SimpleNamespace, cuts: tuple[int, ...]
) -> None:
    model, config = small(example)
    tokens = flamec.randint(0, 11, (3, 24))
    writer = example.Writer(model, config, batch=3)
    with flamec.no_grad():
        expected = model(tokens).numpy()
        parts = [writer.logits(part).numpy() for part in tokens.split(cuts, dim=1)]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), expected, rtol=1e-9, atol=1e-11)
    assert np.ptp(expected, axis=1).min() > 0.1  # the logits depend on where they stand


def test_tokens_do_not_add_programs(example: SimpleNamespace) -> None:
    """One for the prompt's length, one for any length: two, for however many tokens."""
    model, config = small(example)
    writer = example.Writer(model, config, batch=2)
    prompt = flamec.randint(0, 11, (2, 3))
    first = writer.write(prompt, 5)
    assert writer.next.stats.traces == 2
    for count in (1, 12, 21):
        written = writer.write(prompt, count)
        assert written.shape == (2, 3 + count)
        np.testing.assert_array_equal(written[:, :3], prompt.numpy())
    writer.write(prompt[:, :1], 20)
    writer.write(flamec.randint(0, 11, (2, 9)), 15)
    assert writer.next.stats.traces == 2
    with pytest.raises(ValueError, match="room for 24 tokens only"):
        writer.write(prompt, 22)
    assert first.shape == (2, 8)


def test_what_is_written_is_likely(example: SimpleNamespace) -> None:
    """Nearly without temperature each token is the model's best after those before it."""
    model, config = small(example)
    writer = example.Writer(model, config, temperature=1e-4)
    prompt = flamec.tensor([[3, 1]])
    written = writer.write(prompt, 22)
    np.testing.assert_array_equal(written, writer.write(prompt, 22))
    with flamec.no_grad():
        best = model(flamec.from_numpy(written)).argmax(-1).numpy()
    np.testing.assert_array_equal(written[0, 2:], best[0, 1:-1])


def test_sampling_follows_the_seed(example: SimpleNamespace) -> None:
    model, config = small(example)
    writer = example.Writer(model, config, batch=4, temperature=3.0)
    prompt = flamec.tensor([[3, 1]]).expand(4, 2).contiguous()
    texts = []
    for seed in (0, 1, 0):
        flamec.manual_seed(seed)
        texts.append(writer.write(prompt, 22))
    np.testing.assert_array_equal(texts[0], texts[2])
    assert (texts[0] != texts[1]).any()
    assert (texts[0][0] != texts[0][1]).any()
