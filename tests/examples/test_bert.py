"""The encoder example learns on the pieces of a book, at small size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from example_programs import program


def test_bert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main = program("bert", "flamec", tmp_path).main
    words = ["--width", "16", "--layers", "1", "--length", "24", "--batch", "64"]
    filling, telling, share = main([*words, "--pretrain", "60", "--steps", "120"])
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == f"accuracy on passages never seen: {share:.1%} (guessing: 8.3%)"
    assert filling[-10:].mean() < filling[:10].mean() - 0.5
    assert telling[-10:].mean() < telling[:10].mean() - 0.1
    assert share > 0.12


def test_passages_and_their_gaps(tmp_path: Path) -> None:
    bert = program("bert", "flamec", tmp_path)
    texts, vocabulary = bert.chapters()
    assert len(texts) == 12 and sum(map(len, texts)) > 30_000
    assert max(text.max() for text in texts) == vocabulary - 1
    known, unseen = bert.pieces(texts)
    for owner, text in enumerate(texts):
        count = len(text) // bert.PIECE
        assert sum(one == owner for _, one in unseen) == count // 5
        assert sum(one == owner for _, one in known) == count - count // 5
    rows, owners = bert.passages(known, 200, 20, np.random.default_rng(0))
    assert (rows[:, 0] == bert.FIRST).all() and (rows[:, 1:] != bert.FIRST).all()
    for row, owner in zip(rows[:20], owners, strict=False):
        windows = np.lib.stride_tricks.sliding_window_view(texts[owner], 19)
        assert (windows == row[1:]).all(1).any()
    given, asked = bert.hidden(rows, vocabulary, np.random.default_rng(1))
    wanted = asked != -100
    np.testing.assert_array_equal(asked[wanted], rows[wanted])
    np.testing.assert_array_equal(given[~wanted], rows[~wanted])
    assert 0.12 < wanted[:, 1:].mean() < 0.18 and not wanted[:, 0].any()
    assert 0.7 < (given[wanted] == bert.MASK).mean() < 0.9
