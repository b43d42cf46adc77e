"""The tabular example: a frame with gaps and a category goes through a pipeline."""

from __future__ import annotations

from pathlib import Path

import pytest
from example_programs import program

pytest.importorskip("sklearn")
pytest.importorskip("pandas")


def test_tabular(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = program("tabular", "flamec", tmp_path).main(["--folds", "3", "--epochs", "40"])
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == f"R squared of the network: {found['a network']:.3f}"
    assert abs(found["the mean"]) < 0.05
    assert found["a network"] > 0.42


def test_the_frame_has_gaps_and_a_category(tmp_path: Path) -> None:
    tabular = program("tabular", "flamec", tmp_path)
    frame, course = tabular.patients()
    assert frame.shape == (442, 10) and len(course) == 442
    assert set(frame["sex"]) == {"one", "two"}
    assert 40 < frame.isna().sum().sum() < 120
    table = tabular.columns(frame).fit_transform(frame)
    assert table.shape == (442, 11)
