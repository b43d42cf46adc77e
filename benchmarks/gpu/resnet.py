"""ResNets in training on one GPU beside PyTorch: images a second of the whole step.

``python -m benchmarks.gpu.resnet [--depth 18|50] [--precision NAME] [--only flamec torch ...]
[--seconds N] [--apart]``

Batch 128, 224 x 224, SGD with momentum; each contender in a process of its own, with the same
weights and images, and their first losses. They get ready side by side, unless ``--apart``, and are
timed in turns. PyTorch has channels last and cuDNN's search for
algorithms. ``--precision``: ``bfloat16`` (autocast), ``float32`` and ``tf32`` on both sides, or
``default``, where nothing is set: in both, convolutions are TF32 and the last layer is float32.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.in_turns import Turns, in_turns, take_turns

BATCH, SIZE, CLASSES = 128, 224, 1000
GOAL = 4400.0  # images a second of ResNet-50 in bfloat16
CONTENDERS = ("flamec", "torch", "torch.compile")
PRECISIONS = ("bfloat16", "float32", "tf32", "default")


def training_step(contender: str, options: argparse.Namespace) -> Callable[[], Any]:
    """The whole training step; its value is the loss."""
    from benchmarks.models.resnet import resnet18, resnet50, set_weights

    device, small = options.device, options.small
    name = "flamec" if contender == "flamec" else "torch"
    framework: Any = __import__(name)
    nn = framework.nn
    widths = (8, 8, 16, 16) if small else (64, 128, 256, 512)
    batch, size, classes = (4, 32, 10) if small else (BATCH, SIZE, CLASSES)
    if options.depth == 18:
        model = resnet18(framework, classes, widths)
    else:
        model = resnet50(framework, classes, widths, (1, 1, 1, 1) if small else (3, 4, 6, 3))
    set_weights(framework, model)
    model = model.to(device)
    random = np.random.default_rng(1)
    x = framework.from_numpy(random.standard_normal((batch, 3, size, size), np.float32)).to(device)
    y = framework.from_numpy(random.integers(0, classes, batch)).to(device)
    if options.precision in ("tf32", "float32"):
        framework.backends.cuda.matmul.allow_tf32 = options.precision == "tf32"
        framework.backends.cudnn.allow_tf32 = options.precision == "tf32"
    if name == "torch":
        framework.backends.cudnn.benchmark = True
        model = model.to(memory_format=framework.channels_last)
        x = x.to(memory_format=framework.channels_last)
    optimizer = framework.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    forward = framework.compile(model) if contender == "torch.compile" else model

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        mixed = options.precision == "bfloat16"
        with framework.autocast(device.split(":")[0], dtype=framework.bfloat16, enabled=mixed):
            loss = nn.functional.cross_entropy(forward(x), y)
        loss.backward()
        optimizer.step()
        return loss

    run = framework.compile(step) if contender == "flamec" else step
    return lambda: run(x, y)


def measure(options: argparse.Namespace) -> None:
    """One contender, in a process of its own."""
    started = time.perf_counter()
    step = training_step(options.contender, options)
    losses = [float(step())]
    first = time.perf_counter() - started
    losses += [float(step()) for _ in range(4)]
    count = 1 if options.small else 10

    def one_round() -> float:
        begun = time.perf_counter()
        for _ in range(count):
            loss = step()
        float(loss)
        return (time.perf_counter() - begun) / count

    def last() -> dict[str, Any]:
        framework = sys.modules["flamec" if options.contender == "flamec" else "torch"]
        peak = framework.cuda.max_memory_allocated() if options.device != "cpu" else 0
        if options.profile:
            profile_step(step, options.profile)
        return {"peak_bytes": int(peak)}

    take_turns({"losses": losses, "first_call": first}, one_round, last)


def profile_step(step: Callable[[], Any], file: Path) -> None:
    """Each kernel of one step with its microseconds, in the order of their starts."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        float(step())
    kernels = [e for e in seen.events() if e.device_type.name == "CUDA"]
    kernels.sort(key=lambda event: event.time_range.start)
    lines = [f"{e.time_range.elapsed_us():9.1f}  {e.name}" for e in kernels]
    file.write_text("\n".join(lines) + "\n")


def compare(options: argparse.Namespace) -> bool:
    batch, mixed = (4 if options.small else BATCH), options.precision == "bfloat16"

    def starting(name: str) -> Callable[[], Turns]:
        command = ["-m", "benchmarks.gpu.resnet", "--contender", name]
        command += ["--device", options.device, "--depth", str(options.depth)]
        command += ["--precision", options.precision, *["--small"] * options.small]
        if options.profile:
            command += ["--profile", str(options.profile.with_suffix(f".{name}.txt"))]
        return lambda: Turns(command)

    contenders = {name: starting(name) for name in options.only}
    found = in_turns(contenders, options.seconds, options.apart)
    medians = {name: statistics.median(t.rounds) for name, t in found.items() if t.rounds}
    for name, turns in found.items():
        if turns.problem:
            print(f"{name:14s} PROBLEM: {turns.problem}", flush=True)
        if name not in medians:
            continue
        facts, median = turns.facts, medians[name]
        own = medians.get("flamec", median)
        print(
            f"ResNet-{options.depth} {options.precision} {name:14s} "
            f"{batch / median:8.1f} images/s ({median * 1e3:.2f} ms), "
            f"{median / own:.2f} x flamec's time, first call {facts['first_call']:.1f} s"
            f"{'' if options.apart else ' beside the others'}, "
            f"{facts.get('peak_bytes', 0) / 2**30:.1f} GiB, losses "
            + " ".join(f"{loss:.3f}" for loss in facts["losses"]),
            flush=True,
        )
    if "flamec" in medians and not options.small and options.depth == 50 and mixed:
        met = batch / medians["flamec"] >= GOAL
        print(f"goal {GOAL:.0f} images/s: {'met' if met else 'missed'}")
    return not any(turns.problem for turns in found.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--depth", type=int, choices=(18, 50), default=50)
    parser.add_argument("--precision", choices=PRECISIONS, default="bfloat16")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=CONTENDERS)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="a tiny network, to try the program")
    parser.add_argument("--profile", type=Path, help="where each kernel's time is written")
    parser.add_argument("--seconds", type=float, default=200.0, help="for all contenders")
    parser.add_argument("--apart", action="store_true", help="one gets ready after the other")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        measure(options)
        return 0
    return 0 if compare(options) else 1


if __name__ == "__main__":
    raise SystemExit(main())
