"""The programs under ``examples/`` for flamec and, with their imports changed, for PyTorch."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

FOLDER = Path(__file__).parent.parent / "examples"


def program(name: str, framework: str, folder: Path) -> SimpleNamespace:
    """What ``examples/NAME.py`` defines, written for "flamec" or "torch"; ``folder`` for a copy."""
    copy = folder / f"{name}_in_{framework}.py"
    copy.write_text((FOLDER / f"{name}.py").read_text().replace("flamec", framework))
    return SimpleNamespace(**runpy.run_path(str(copy)))
