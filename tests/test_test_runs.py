"""What a run of the tests leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

CONFTEST = Path(__file__).with_name("conftest.py")
BEGIN = """
import importlib.util, os, signal, sys, types
spec = importlib.util.spec_from_file_location("conftest", sys.argv[1])
conftest = importlib.util.module_from_spec(spec)
spec.loader.exec_module(conftest)
config = types.SimpleNamespace(stash={})
conftest.pytest_configure(config)
print(os.environ["PYTHONPYCACHEPREFIX"], os.path.isdir(sys.pycache_prefix), flush=True)
if sys.argv[2] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
conftest.pytest_unconfigure(config)
"""


def begin(how: str, temporary: Path) -> None:
    temporary.mkdir()
    variables = {
        **os.environ,
        "TMPDIR": str(temporary),
        "PYTHONPATH": str(CONFTEST.parent),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", BEGIN, str(CONFTEST), how],
        env={name: v for name, v in variables.items() if name != "PYTHONPYCACHEPREFIX"},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == (-9 if how == "killed" else 0)
    assert done.stdout.startswith(str(temporary / "flamec-bytecode-"))
    assert done.stdout.endswith(" True\n")


def test_bytecode_goes_when_a_run_ends_or_is_killed(tmp_path: Path) -> None:
    begin("killed", tmp_path / "killed")
    begin("ended", tmp_path / "ended")
    assert not list((tmp_path / "ended").iterdir())
    deadline = time.monotonic() + 60
    while list((tmp_path / "killed").iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
