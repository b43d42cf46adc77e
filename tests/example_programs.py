"""The programs under ``examples/`` for flamec and, with their imports changed, for PyTorch."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent.parent / "examples"


def program(name: str, framework: str, folder: Path) -> SimpleNamespace:
    """What ``examples/NAME.py`` defines, written for "flamec" or "torch"; ``folder`` for a copy.

    The modules that it shares with others are imported from the copy, and forgotten again.
    """
    if framework == "torch":
        import torch

        torch.set_num_threads(1)  # networks of this size gain nothing by more
    copies = folder / framework
    copies.mkdir(exist_ok=True)
    for file in FOLDER.glob("*.py"):
        (copies / file.name).write_text(file.read_text().replace("flamec", framework))
    if not (copies / "texts").exists():
        (copies / "texts").symlink_to(FOLDER / "texts")
    shared = {file.stem for file in copies.iterdir()}
    before = {key: sys.modules.pop(key) for key in shared & sys.modules.keys()}
    sys.path.insert(0, str(copies))
    try:
        return SimpleNamespace(**runpy.run_path(str(copies / f"{name}.py")))
    finally:
        sys.path.remove(str(copies))
        for key in shared & sys.modules.keys():
            del sys.modules[key]
        sys.modules.update(before)


def same_weights(ours: Any, reference: Any) -> None:
    """Give a flamec module the parameters and buffers of the same module in PyTorch."""
    import flamec

    state = {key: value.detach().numpy().copy() for key, value in reference.state_dict().items()}
    ours.load_state_dict({key: flamec.from_numpy(np.asarray(v)) for key, v in state.items()})


def assert_same_weights(ours: Any, reference: Any, rtol: float = 1e-6, atol: float = 1e-8) -> None:
    """Parameters and buffers agree."""
    found = ours.state_dict()
    for key, value in reference.state_dict().items():
        np.testing.assert_allclose(
            found[key].numpy(), value.numpy(), rtol=rtol, atol=atol, err_msg=key
        )


def doubles(package: Any, arrays: Sequence[np.ndarray]) -> list[Any]:
    """Tensors of flamec or PyTorch of the arrays; floats become float64."""
    return [
        package.from_numpy(a.astype(np.float64) if a.dtype.kind == "f" else a.copy())
        for a in arrays
    ]


def follow(
    step: Any, twin: Any, batches: Sequence[Sequence[np.ndarray]], rtol: float = 1e-7
) -> np.ndarray:
    """The losses [steps, losses of a step] of a compiled step, which are those of its twin.

    The step must have been traced once.
    """
    import torch

    import flamec

    found, expected = [], []
    for arrays in batches:
        for curve, package, one in ((found, flamec, step), (expected, torch, twin)):
            result = one(*doubles(package, arrays))
            results = result if isinstance(result, tuple) else (result,)
            curve.append([value.item() for value in results])
    np.testing.assert_allclose(found, expected, rtol=rtol)
    assert step.stats.traces == 1
    return np.array(found)
