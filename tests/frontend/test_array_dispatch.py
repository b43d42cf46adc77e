"""SciPy and scikit-learn take flamec's tensors, and give what they give for NumPy's arrays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import flamec
from flamec import array_api

PROGRAM = Path(__file__).parents[1] / "dispatch_calls.py"


@pytest.mark.parametrize(
    ("package", "least"), [("scipy", 150), ("sklearn", 100)], ids=["scipy", "sklearn"]
)
def test_functions_of_other_libraries_take_tensors(package: str, least: int) -> None:
    """In a process of its own, because SciPy reads its switch when it is imported."""
    found = pytest.importorskip(package)
    if (package, tuple(map(int, found.__version__.split(".")[:2]))) < (package, (1, 9)):
        pytest.skip("older versions dispatch less")
    done = subprocess.run(
        [sys.executable, str(PROGRAM), package],
        env={**os.environ, "SCIPY_ARRAY_API": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    *differences, count = done.stdout.splitlines()
    assert not differences and int(count) >= least, done.stdout


def test_array_api_compat_finds_the_namespace() -> None:
    compat = pytest.importorskip("array_api_compat")
    x = flamec.ones(2, 3)
    assert compat.array_namespace(x) is array_api and compat.size(x) == 6
    assert compat.device(x) == x.device
