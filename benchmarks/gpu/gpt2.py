"""``examples/gpt2.py`` as a module of flamec or, with its imports changed, of PyTorch.

In: the framework's name. Out: the same program in both, with the same initial weights and data.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

SOURCE = Path(__file__).resolve().parents[2] / "examples" / "gpt2.py"


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


def set_weights(model: Any, seed: int = 0) -> None:
    """Initial weights that depend on names, shapes and ``seed`` alone."""
    module = sys.modules[type(model).__module__]
    framework = getattr(module, "flamec", None) or module.torch
    with framework.no_grad():
        for number, (name, parameter) in enumerate(model.named_parameters()):
            random = np.random.default_rng((seed, number))
            drawn = random.standard_normal(tuple(parameter.shape), np.float32) * 0.02
            if "norm" in name:
                drawn += name.endswith("weight")
            elif name.endswith("bias"):
                drawn *= 0
            parameter.copy_(framework.from_numpy(drawn))
