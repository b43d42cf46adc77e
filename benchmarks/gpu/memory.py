"""Memory and time of GPT-2's training step at several memory budgets, on one GPU.

``python -m benchmarks.gpu.memory [--budgets B ...] [--small] [--seconds N] [--json FILE]``

The step is that of ``examples/gpt2.py`` (124M parameters, batch 32, 1024 tokens, bf16 autocast,
AdamW). All budgets train from the same weights on the same data in one process, the
smallest first, each with an arena of its own. Predicted: the plan's inputs, outputs and arena;
measured: ``flamec.cuda.max_memory_allocated`` while steps run. Losses are compared.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np


def measure(budget: float, small: bool, rounds: int) -> dict[str, Any]:
    """One budget; plain data, bytes and seconds."""
    import flamec
    from benchmarks.gpu.gpt2 import example, set_weights
    from flamec.compiled_function import CompiledFunction
    from flamec.ir.passes.plan_memory import memory_use

    program = example()
    config = program.SMALL if small else program.Config()
    flamec.manual_seed(0)
    training = program.Training(config, "cuda", "bfloat16", clip=None, fused=True)
    set_weights(training.model)
    stream = np.random.default_rng(0).integers(0, config.vocabulary, 1 << 18)
    x, y = next(program.batches(stream, 2 if small else 32, config.context, "cuda"))
    step = flamec.compile(training.step, memory_budget=budget)
    assert isinstance(step, CompiledFunction)
    begun = time.perf_counter()
    losses = [float(step(x, y))]
    first = time.perf_counter() - begun
    losses += [float(step(x, y)) for _ in range(2)]
    flamec.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        loss = step(x, y)
        losses.append(float(loss))
        times.append(time.perf_counter() - begun)
    prepared = step.programs[0].prepared
    assert prepared.plan is not None
    use = memory_use(prepared.plan, {})
    found = {
        "budget": budget,
        "losses": losses[:5],
        "median": statistics.median(times),
        "first_call": first,
        "kernels": len(prepared.plan.actions),
        "predicted": use.total,
        "arena": use.arena,
        "measured": int(flamec.cuda.max_memory_allocated()),
        "stages": prepared.plan.notes.get("memory", {}).get("peaks"),
        "repeated": len(prepared.plan.notes.get("memory", {}).get("repeated", ())),
    }
    del step, training, x, y, loss, prepared
    gc.collect()
    flamec.cuda.empty_cache()
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budgets", nargs="*", type=float, default=[0.0, 0.5, 1.0])
    parser.add_argument("--small", action="store_true", help="a tiny model")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=Path)
    choice = parser.parse_args(arguments)
    found = []
    for budget in choice.budgets:
        row = measure(budget, choice.small, choice.rounds)
        found.append(row)
        gib = 2**30
        print(
            f"budget {budget:4.2f}  {row['median'] * 1e3:8.2f} ms  predicted "
            f"{row['predicted'] / gib:7.3f} GiB  measured {row['measured'] / gib:7.3f} GiB  "
            f"arena {row['arena'] / gib:7.3f}  {row['kernels']} launches, {row['repeated']} values "
            f"again  first call {row['first_call']:.1f} s  losses {row['losses']}",
            flush=True,
        )
    if choice.json:
        choice.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
