"""Run the training step of ``training_digest.py`` in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parent / "training_digest.py"


def digest(device: str, threads: int) -> str:
    environment = {**os.environ, "FLAMEC_NUM_THREADS": str(threads)}
    environment |= {name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    path = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run(
        [sys.executable, str(PROGRAM), device],
        env={**environment, "PYTHONPATH": path, "PYTHONHASHSEED": str(threads)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = done.stdout.strip()
    assert len(found) == 64, found
    return found
