"""The encoder follows PyTorch: the same source, weights and data."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
from example_programs import assert_same_weights, doubles, follow, program, same_weights
from torch_comparison import torch

import flamec


def test_filling_gaps_then_telling_chapters(tmp_path: Path) -> None:
    ours, theirs = program("bert", "flamec", tmp_path), program("bert", "torch", tmp_path)
    texts, vocabulary = ours.chapters()
    known, _ = ours.pieces(texts)
    random = np.random.default_rng(0)
    torch.manual_seed(0)
    encoders = [
        package.Encoder(vocabulary, length=16, width=8, layers=1, heads=2, dropout=0.0)
        for package in (ours, theirs)
    ]
    heads = [
        (ours.Pretraining(encoders[0]), theirs.Pretraining(encoders[1])),
        (ours.Classifier(encoders[0]), theirs.Classifier(encoders[1])),
    ]
    for number, (model, reference) in enumerate(heads):
        same_weights(model.double(), reference.double())
        if number:  # the chapters' head drops out, which draws other numbers
            model.dropout.p = reference.dropout.p = 0.0
        training, twin = ours.Training(model, 25), theirs.Training(reference, 25)
        step = flamec.compile(training.step)
        drawn = (ours.passages(known, 16, 16, random) for _ in range(25))
        pairs = drawn if number else (ours.hidden(rows, vocabulary, random) for rows, _ in drawn)
        losses = []
        for pair in islice(pairs, 25):
            losses.append(follow(step, twin.step, [pair], rtol=1e-6)[0, 0])
            training.schedule.step()
            twin.schedule.step()
        assert np.mean(losses[-5:]) < np.mean(losses[:5])
        assert_same_weights(model, reference, rtol=1e-5, atol=1e-7)
    tokens = ours.passages(known, 5, 16, random)[0]
    model, reference = heads[1]
    found, expected = model(*doubles(flamec, [tokens])), reference(*doubles(torch, [tokens]))
    np.testing.assert_allclose(found.detach().numpy(), expected.detach().numpy(), rtol=1e-5)
