"""README.md tells the truth: its tour runs, its dump is the one that the command prints.

``FLAMEC_UPDATE_GOLDEN=1 pytest tests/test_readme.py`` writes the dump anew.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
TEXT = README.read_text()
DUMP = re.compile(r"```console\n\$ flamec (?P<command>dump .*)\n(?P<text>[^`]*)```")


def test_the_tour_runs() -> None:
    program = "\n".join(re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_dump_is_real() -> None:
    match = DUMP.search(TEXT)
    assert match is not None
    arguments = shlex.split(match["command"])
    done = subprocess.run(
        [sys.executable, "-m", "flamec.cli.main", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    if os.environ.get("FLAMEC_UPDATE_GOLDEN"):
        README.write_text(TEXT.replace(match["text"], done.stdout))
    else:
        assert match["text"] == done.stdout


def test_the_commands_name_what_exists() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for command in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL):
        for group in re.findall(r"'\.\[(.*?)\]'", command):
            assert set(group.split(",")) <= set(extras)
    for link in re.findall(r"\]\((?!http)(.*?)\)", TEXT):
        assert (ROOT / link).exists(), link


def test_ci_runs_the_tests_as_the_readme_says() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert "-e '.[test,demo" in script
    assert "python -m pytest -n" in script
