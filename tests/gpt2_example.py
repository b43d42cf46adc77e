"""``examples/gpt2.py`` as a module, in flamec and, with its imports changed, in PyTorch."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

SOURCE = Path(__file__).parent.parent / "examples" / "gpt2.py"


def example(framework: str = "flamec") -> Any:
    """The program, written for ``framework`` ("flamec" or "torch")."""
    name = f"gpt2_in_{framework}"
    if name not in sys.modules:
        module = ModuleType(name)
        module.__file__ = str(SOURCE)
        sys.modules[name] = module  # dataclasses look their module up
        text = SOURCE.read_text().replace("flamec", framework)
        exec(compile(text, str(SOURCE), "exec"), vars(module))
    return sys.modules[name]


def share_weights(ours: Any, theirs: Any) -> None:
    """Give the torch model ``theirs`` the parameters of the flamec model ``ours``."""
    import torch

    names = [name for name, _ in ours.named_parameters()]
    assert names == [name for name, _ in theirs.named_parameters()]
    with torch.no_grad():
        for mine, wanted in zip(ours.parameters(), theirs.parameters(), strict=True):
            wanted.copy_(torch.from_numpy(np.array(mine.detach().cpu().numpy())))
