"""A training step of a small GPT-2, as a program: what its process loads and starts.

``python -m tests.second_process DEVICE`` prints one line of JSON: ``compiled`` and ``cached``
kernels, the ``heavy`` modules that were imported, the ``started`` processes, the ``loss`` as hex.
"""

from __future__ import annotations

import json
import sys
from typing import Any

HEAVY = ("triton", "jinja2", "networkx", "scipy", "torch")
_STARTING = ("subprocess.Popen", "os.posix_spawn", "os.fork", "os.forkpty", "os.exec", "os.system")
started: list[str] = []


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _STARTING:
        started.append(f"{event} {arguments[:2]}")


def main(device: str) -> None:
    """Make the model, take one step, and print."""
    sys.addaudithook(_note)
    import flamec
    from benchmarks.gpu.gpt2 import example

    gpt2 = example()
    flamec.manual_seed(0)
    # the vocabulary is so large that a compiled program draws the first weights
    training = gpt2.Training(gpt2.Config(4224, 32, 2, 4, 64), device)
    tokens = flamec.arange(64, device=device).reshape(2, 32)
    step = flamec.compile(training.step)
    loss = step(tokens, tokens).item()
    found = {
        "compiled": step.stats.kernels_compiled,
        "cached": step.stats.kernels_from_cache,
        "heavy": [name for name in HEAVY if name in sys.modules],
        "started": started,
        "loss": float(loss).hex(),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
