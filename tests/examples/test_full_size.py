"""The examples at the sizes that examples/README.md gives, and what it says of them.

A number may differ from machine to machine, because sums in another order are rounded otherwise and
training enlarges that; the bounds here are what a run must reach.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from example_programs import FOLDER, program

TEXT = (FOLDER / "README.md").read_text()
ROW = re.compile(
    r"^\| `python examples/(?P<words>[^`]+)` \| [^|]+ \| `(?P<line>[^`]+)` \| [^|]+ \|$"
)
ROWS = {m["words"]: m["line"] for m in map(ROW.match, TEXT.splitlines()) if m}

# The last number of the last line, and whether at least or at most so much is good.
BOUNDS = {
    "cnn.py": ("at least", 97.0),
    "cnn.py --model resnet --epochs 8": ("at least", 97.0),
    "gpt2.py --small": ("at most", 4.0),
    "character_gpt.py": ("at most", 2.0),
    "gan.py": ("at most", 25.0),
    "diffusion.py": ("at most", 12.0),
    "vae.py": ("at most", 25.0),
    "policy_gradient.py": ("at least", 400.0),
    "dqn.py": ("at least", 300.0),
    "audio.py": ("at least", 90.0),
    "tabular.py": ("at least", 0.45),
    "bert.py": ("at least", 35.0),
}


def good(words: str, line: str) -> bool:
    """Whether the number that a program ends with is as good as it should be."""
    line = re.sub(r" in \d+ steps.*| \(guessing.*", "", line)
    number = float(re.findall(r"\d+(?:\.\d+)?", line)[-1])
    side, bound = BOUNDS[words]
    return number >= bound if side == "at least" else number <= bound


def test_the_table_lists_every_example() -> None:
    assert set(ROWS) == set(BOUNDS)
    programs = {p.name for p in FOLDER.glob("*.py") if "def main(" in p.read_text()}
    assert programs - {"classifier.py"} == {words.split()[0] for words in ROWS}
    for name in FOLDER.glob("*.py"):
        assert name.name in TEXT, f"{name.name} is not in examples/README.md"
        assert len(name.read_text().splitlines()) < 300


@pytest.mark.parametrize("words", ROWS)
def test_the_numbers_in_the_table_are_good(words: str) -> None:
    assert good(words, ROWS[words])


@pytest.mark.slow
@pytest.mark.parametrize("words", ROWS)
def test_a_run_as_in_the_table(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # where pictures are written
    name, *arguments = shlex.split(words)
    program(name.removesuffix(".py"), "flamec", tmp_path).main(["--device", "cpu", *arguments])
    line = capsys.readouterr().out.splitlines()[-1]
    assert re.sub(r"[\d.,]+", "#", line) == re.sub(r"[\d.,]+", "#", ROWS[words])
    assert good(words, line), line
