"""Start test programs whose kernels Triton's interpreter runs, and read what they print."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent


def run_interpreted(program: str, arguments: Sequence[str]) -> list[dict[str, Any]]:
    """The lines of JSON that ``tests/PROGRAM`` prints, in a process of its own."""
    path = os.pathsep.join(p for p in (str(TESTS), *sys.path) if p and p != str(TESTS.parent))
    done = subprocess.run(
        [sys.executable, str(TESTS / program), *arguments],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]
