"""Python in a process of its own: what tests of caches and of written files share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def run_python(
    *arguments: str | Path, cache: Path, without: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run ``python ARGUMENTS`` with this cache and none of this process's settings of flamec.

    ``without``: further variables of the environment that it does not get. The caller looks at the
    exit status.
    """
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("FLAMEC_") and name not in without
    }
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**inherited, "FLAMEC_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
