"""The character GPT follows PyTorch on its book: the same source, weights and batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from example_programs import assert_same_weights, doubles, follow, program, same_weights
from torch_comparison import torch

import flamec


def test_losses_and_logits_through_the_cache(tmp_path: Path) -> None:
    ours = program("character_gpt", "flamec", tmp_path)
    theirs = program("character_gpt", "torch", tmp_path)
    letters = ours.Letters(ours.BOOK.read_text())
    stream = letters.encode(ours.BOOK.read_text())
    count = len(letters.letters)
    sizes = {"vocabulary": count, "context": 32, "layers": 2, "heads": 2, "width": 32}
    torch.manual_seed(0)
    twin = theirs.Training(theirs.Config(**sizes), rate=3e-3)
    training = ours.Training(ours.Config(**sizes), rate=3e-3)
    same_weights(training.model, twin.model)
    training.model.double()
    twin.model.double()
    data = ours.batches(stream, 8, 32, seed=0)
    batches = [tuple(tensor.numpy() for tensor in next(data)) for _ in range(40)]
    losses = follow(flamec.compile(training.step), twin.step, batches, rtol=1e-6)
    assert losses[-1] < losses[0] - 0.4
    assert_same_weights(training.model, twin.model, rtol=1e-4, atol=1e-6)
    tokens = batches[0][0][:2]
    writer = ours.Writer(training.model, ours.Config(**sizes), batch=2)
    parts = doubles(flamec, [tokens[:, :5], tokens[:, 5:6], tokens[:, 6:]])
    with flamec.no_grad():
        found = np.concatenate([writer.logits(part).numpy() for part in parts], axis=1)
    expected = twin.model(torch.from_numpy(tokens)).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
