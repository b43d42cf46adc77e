"""Training steps on one GPU: flamec beside PyTorch and JAX.

``python -m benchmarks.gpu.training_steps [--rows NAME ...] [--only NAME ...] [--seconds N]
[--device cuda] [--small] [--json FILE]``

Every contender runs in a process of its own, one after the other on the same device, from the
same weights and data; the losses of its first steps are compared with the first contender's.
A time is the median of rounds, each ended by waiting for the loss; a ratio is that of medians.
``flamec`` starts with an empty kernel cache, ``flamec again`` with the one that it left.
``--seconds`` bounds each row: what there is no time for is reported. ``--small``: tiny models,
to try the program without a GPU. ``lstm`` and ``encoder`` are the steps of
``benchmarks/lstm_step.py`` and ``encoder_step.py``; ``curve`` compares the losses of 50 steps of
GPT-2.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
CONTENDERS = ("flamec", "flamec again", "torch eager", "torch.compile", "torch graph", "jax")


@dataclass(frozen=True)
class Row:
    """``tokens``: units of work in a step. ``goal``: of flamec, in seconds a step.

    ``tolerance``: relative, of the first losses. ``losses``: how many are compared.
    """

    name: str
    tokens: int
    contenders: tuple[str, ...]
    goal: float | None = None
    tolerance: float = 1e-4
    losses: int = 3


GPT2 = ("flamec", "flamec again", "torch eager", "torch.compile")
ROWS = (
    Row("seed", 16, CONTENDERS, 25e-6),
    Row("mlp", 128, CONTENDERS, 60e-6),
    Row("lstm", 32 * 64, GPT2, None, 1e-3),
    Row("encoder", 8 * 128, GPT2, None, 1e-3),
    Row("gpt2", 32 * 1024, GPT2, 32 * 1024 / 560e3, 1e-2),
    Row("forward", 128, GPT2, 0.6e-3, 1e-2),
    Row("curve", 32 * 1024, ("flamec", "torch eager"), None, 1e-2, 50),
)

Step = Callable[[], Any]


# one contender, in its own process ---------------------------------------------------------
def _kept(function: Any) -> Any:
    return function


def _mlp(contender: str, device: str, widths: list[int], batch: int) -> Step:
    from benchmarks.mlp import Mlp

    mlp = Mlp(widths, batch)
    if contender == "jax":
        os.environ["JAX_PLATFORMS"] = "cuda" if device.startswith("cuda") else "cpu"
        return mlp.in_jax()
    if contender.startswith("flamec"):
        import flamec

        return mlp.build(flamec, flamec.compile, device)
    import torch

    if contender == "torch graph":
        return _captured(mlp.build(torch, _kept, device, capturable=True, fused=True))
    return mlp.build(torch, torch.compile if contender == "torch.compile" else _kept, device)


def _workload(name: str, contender: str, device: str) -> Step:
    """PyTorch's eager step of an LSTM is cuDNN's."""
    build = importlib.import_module(f"benchmarks.{name}_step").build
    framework = __import__("flamec" if contender.startswith("flamec") else "torch")
    return build(framework, _kept if contender == "torch eager" else framework.compile, device)


def _captured(step: Step) -> Step:
    """The step as a CUDA graph; its warming-up steps are the first three."""
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("a CUDA graph needs a GPU")
    first = []
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            first.append(step().detach().clone())
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()

    def run() -> Any:
        if first:
            return first.pop(0)
        graph.replay()
        return loss

    return run


def _gpt2(row: str, contender: str, device: str, small: bool) -> Step:
    from benchmarks.gpu.gpt2 import example, set_weights

    name = "flamec" if contender.startswith("flamec") else "torch"
    program = example(name)
    framework = sys.modules[name]
    config = program.SMALL if small else program.Config()
    dtype = "float32" if device == "cpu" else "bfloat16"
    training = program.Training(config, device, dtype, clip=None, fused=True)
    set_weights(training.model)
    compiled = framework.compile if contender != "torch eager" else _kept
    if row == "forward":
        return _forward(framework, training, compiled, config, device)
    batch = 2 if small else 32
    if row == "curve":
        stream = program.chain(256, 1 << 18)
    else:
        stream = np.random.default_rng(0).integers(0, config.vocabulary, 1 << 18)
    data = program.batches(stream, batch, config.context, device)
    if name == "torch" and contender != "torch eager":  # as its users do: not through backward()
        training.model = framework.compile(training.model)
        compiled = _kept
    step = compiled(training.step)
    if row != "curve":
        inputs = next(data)
        return lambda: step(*inputs)

    def next_step() -> Any:
        loss = step(*next(data))
        training.schedule.step()
        return loss

    return next_step


def _forward(framework: Any, training: Any, compiled: Any, config: Any, device: str) -> Step:
    """One sequence of 128 tokens through the model; the mean logit stands for the result."""
    length = min(128, config.context)
    tokens = np.random.default_rng(0).integers(0, config.vocabulary, (1, length))
    inputs = framework.from_numpy(tokens).to(device)

    def forward(tokens: Any) -> Any:
        with framework.no_grad(), training.precision():
            return training.model(tokens)

    run = compiled(forward)
    with framework.no_grad():
        wanted = run(inputs).float().square().mean()
    if not bool(framework.isfinite(wanted)):
        raise SystemExit("the logits are not finite")
    return lambda: run(inputs)


def _number(result: Any) -> float:
    """The loss; of logits the mean square. Waits until the device is done."""
    if getattr(result, "ndim", 0):
        result = result.float().square().mean()
    return float(result)


def run_contender(row: Row, contender: str, device: str, small: bool, seconds: float) -> dict:
    """Measure one contender; plain data."""
    started = time.perf_counter()
    if row.name == "seed":
        step = _mlp(contender, device, [10, 50, 2], 16)
    elif row.name == "mlp":
        step = _mlp(contender, device, [784, 512, 512, 10], 128)
    elif row.name in ("lstm", "encoder"):
        step = _workload(row.name, contender, device)
    else:
        step = _gpt2(row.name, contender, device, small)
    prepared = time.perf_counter()
    losses = [_number(step())]
    first = time.perf_counter() - (started if row.name == "forward" else prepared)
    losses += [_number(step()) for _ in range(row.losses - 1)]
    count, rounds = 1, []
    while len(rounds) < 7 and time.perf_counter() - started < seconds:
        begun = time.perf_counter()
        for _ in range(count):
            result = step()
        _number(result)
        took = time.perf_counter() - begun
        if took < 0.05 and not rounds:
            count *= 4
            continue
        rounds.append(took / count)
    return {
        "losses": losses,
        "rounds": rounds,
        "median": statistics.median(rounds) if rounds else None,
        "first_call": first,
        "peak_bytes": _peak(contender, device),
        "device": _device_name(device),
    }


def _peak(contender: str, device: str) -> int | None:
    if not device.startswith("cuda") or contender == "jax":
        return None
    framework = sys.modules["flamec" if contender.startswith("flamec") else "torch"]
    return int(framework.cuda.max_memory_allocated())


def _device_name(device: str) -> str:
    if not device.startswith("cuda"):
        return device
    import flamec

    return flamec.cuda.get_device_name()


# all contenders ----------------------------------------------------------------------------
def measure_row(row: Row, options: argparse.Namespace) -> dict[str, Any]:
    """Every contender in turn; prints a line for each."""
    deadline = time.perf_counter() + options.seconds
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="flamec-benchmark-") as caches:
        names = [n for n in row.contenders if not options.only or n in options.only]
        for position, name in enumerate(names):
            left = deadline - time.perf_counter()
            share = left / (len(names) - position)
            found[name] = _in_process(row, name, options, share, left, caches)
            _compare(row, found, name)
            print(_line(row, found, name), flush=True)
    return {"row": row.name, "goal": row.goal, "tokens": row.tokens, "contenders": found}


def _in_process(
    row: Row, name: str, options: argparse.Namespace, share: float, left: float, caches: str
) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.gpu.training_steps", "--rows", row.name]
    command += ["--contender", name, "--device", options.device, "--seconds", str(share * 0.8)]
    environment = {
        **os.environ,
        "FLAMEC_CACHE_DIR": f"{caches}/flamec",
        "TORCHINDUCTOR_CACHE_DIR": f"{caches}/torch",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    if left < 1:
        return {"problem": "no time was left"}
    try:
        finished = subprocess.run(
            [*command, *(["--small"] if options.small else [])],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=left,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"problem": f"not done after {left:.0f} s"}
    if finished.returncode:
        lines = finished.stderr.strip().splitlines() or ["no message"]
        return {"problem": lines[-1][:300], "trace": finished.stderr[-4000:]}
    result: dict[str, Any] = json.loads(finished.stdout.strip().splitlines()[-1])
    return result


def _compare(row: Row, found: dict[str, Any], name: str) -> None:
    first = next((r for r in found.values() if "losses" in r), None)
    result = found[name]
    if first is None or "losses" not in result:
        return
    wanted, have = np.array(first["losses"]), np.array(result["losses"])
    result["difference"] = float(np.max(np.abs(have - wanted) / np.abs(wanted)))
    if not result["difference"] <= row.tolerance:
        result["problem"] = f"other losses: relative difference {result['difference']:.1e}"


def _line(row: Row, found: dict[str, Any], name: str) -> str:
    result = found[name]
    text = f"{row.name:8s} {name:14s}"
    if result.get("median"):
        median = result["median"]
        rate = f"{row.tokens / median:12,.0f} /s" if row.tokens else ""
        text += f" {median * 1e6:12.1f} us {rate}"
        own = found.get("flamec", {}).get("median")
        if own and not name.startswith("flamec"):
            text += f"  {median / own:5.2f} x flamec"
        if name == "flamec" and row.goal:
            text += f"  goal {row.goal * 1e6:.0f} us: {'met' if median <= row.goal else 'missed'}"
    if "first_call" in result:
        text += f"  first call {result['first_call']:.2f} s"
    if result.get("peak_bytes"):
        text += f"  {result['peak_bytes'] / 2**30:.1f} GiB"
    if "difference" in result:
        text += f"  losses differ by {result['difference']:.0e}"
    return text + (f"  PROBLEM: {result['problem']}" if "problem" in result else "")


def main(arguments: list[str] | None = None) -> int:
    """The exit code is 1 if a contender's losses differ or flamec could not run."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = [row.name for row in ROWS]
    parser.add_argument("--rows", nargs="+", choices=names, default=names)
    parser.add_argument("--only", nargs="+", choices=CONTENDERS)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    rows = [row for row in ROWS if row.name in options.rows]
    if options.contender:
        (row,) = rows
        result = run_contender(
            row, options.contender, options.device, options.small, options.seconds
        )
        print(json.dumps(result))
        return 0
    if options.small:
        rows = [replace(row, tokens=0, goal=None) for row in rows]
    results = []
    for row in rows:
        results.append(measure_row(row, options))
        if options.json:
            options.json.write_text(json.dumps(results, indent=1))
    problems = [
        name
        for result in results
        for name, found in result["contenders"].items()
        if "problem" in found and (name.startswith("flamec") or "difference" in found)
    ]
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
