"""``flamec demo``: learn to read digits, eager and compiled, and compare."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import flamec
from flamec.cli import digits
from flamec.cli.compile_time import CompileTime, measure_compile
from flamec.cli.console import (
    format_bytes,
    format_seconds,
    make_console,
    make_table,
    print_json,
    print_table,
)
from flamec.cli.failure import CommandFailed
from flamec.cli.measures import Cost, latest_cost
from flamec.cli.timing import Timing, summarise
from flamec.compiled_function import CompiledFunction
from flamec.gpu import unavailable_reason

GOAL = 0.97


@dataclass(frozen=True)
class Outcome:
    """What a training run came to."""

    loss: float
    accuracy: float
    step_time: Timing


def demo(
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training images.")] = 40,
    device: Annotated[
        str | None,
        typer.Option("--device", help="cpu or cuda; the GPU if there is one.", metavar="DEVICE"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Data for programs.")] = False,
) -> None:
    """Train a small network on handwritten digits, eager and compiled, and compare the two.

    Needs scikit-learn for the images: pip install 'flamec[demo]'. Exit code 1 if fewer than
    97% of the test images are recognised.
    """
    try:
        data = digits.load()
    except ModuleNotFoundError as error:
        raise CommandFailed(
            f"the demo needs scikit-learn ({error}); install it with pip install 'flamec[demo]'"
        ) from error
    console = Console(stderr=True) if as_json else make_console()
    reason = None if device else unavailable_reason()
    if device and device.startswith("cuda") and not flamec.cuda.is_available():
        raise CommandFailed(f"there is no GPU to train on: {unavailable_reason()}")
    device = device or ("cpu" if reason else "cuda")
    console.print(f"Training {where(device, reason)}.")
    eager, compiled = digits.Training(device), digits.Training(device)
    step: CompiledFunction = flamec.compile(compiled.step)  # type: ignore[assignment]  # not F
    outcomes = {
        "eager": train("eager", eager, eager.step, data, epochs, console),
        "compiled": train("compiled", compiled, step, data, epochs, console),
    }
    target = f"{Path(digits.__file__)}:Training.step"
    times = measure_compile(target, (), hide_gpu=device == "cpu")
    cost = latest_cost(step)
    if as_json:
        print_json({"device": device, **demo_data(outcomes, cost, times)})
    else:
        print_outcomes(console, outcomes, cost, times, device)
    reached = min(o.accuracy for o in outcomes.values())
    if reached < GOAL:
        raise CommandFailed(
            f"{reached:.1%} of the test images were recognised, less than {GOAL:.0%}"
        )


def where(device: str, reason: str | None) -> str:
    """On what the demo trains, and why on no GPU."""
    if device.startswith("cuda"):
        return f"on the GPU ({device_name(device)})"
    return f"on the CPU: {reason}" if reason else "on the CPU"


def device_name(device: str) -> str:
    """What the table calls a device."""
    return flamec.cuda.get_device_name(device) if device.startswith("cuda") else "CPU"


def wait_for(device: str) -> None:
    """Until the device is done, so that what it does is timed."""
    if device.startswith("cuda"):
        flamec.cuda.synchronize(device)


def train(
    name: str,
    training: digits.Training,
    step: Callable[..., Any],
    data: digits.Digits,
    epochs: int,
    console: Console,
) -> Outcome:
    """Train with a progress bar; the first step, which may compile, is not counted."""
    samples: list[float] = []
    columns = (
        TextColumn("{task.description:<9}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(name, total=epochs * data.steps, loss=float("nan"))
        for epoch in range(epochs):
            for images, labels in data.batches(epoch, training.device):
                started = time.perf_counter()
                loss = step(images, labels)
                wait_for(training.device)
                samples.append(time.perf_counter() - started)
            progress.update(task, advance=data.steps, loss=loss.item())
    accuracy = training.accuracy(data.test_images, data.test_labels)
    return Outcome(loss.item(), accuracy, summarise(samples[1:]))


def print_outcomes(
    console: Console,
    outcomes: dict[str, Outcome],
    cost: Cost,
    times: tuple[CompileTime, CompileTime],
    device: str,
) -> None:
    """The table at the end."""
    eager, compiled = outcomes["eager"], outcomes["compiled"]
    speedup = eager.step_time.median / compiled.step_time.median
    numpy = "(through NumPy)"
    moved = numpy if cost.kernel_bytes is None else format_bytes(cost.kernel_bytes)
    cold, warm = (format_seconds(t.compiling) for t in times)
    rows = [
        ("device", device_name(device), device_name(device)),
        ("test accuracy", f"{eager.accuracy:.2%}", f"{compiled.accuracy:.2%}"),
        ("final loss", f"{eager.loss:.5f}", f"{compiled.loss:.5f}"),
        (
            "time per step",
            format_seconds(eager.step_time.median),
            format_seconds(compiled.step_time.median),
        ),
        ("speed-up", "", f"{speedup:.1f}x"),
        ("operations / kernels", str(cost.operations), str(cost.kernels or numpy)),
        ("bytes moved per step", format_bytes(cost.operation_bytes), moved),
        ("compile time, cold", "", cold),
        ("compile time, from the cache", "", warm),
    ]
    console.print()
    print_table(console, make_table(("", "eager", "compiled"), rows, ("eager", "compiled")))


def demo_data(
    outcomes: dict[str, Outcome], cost: Cost, times: tuple[CompileTime, CompileTime]
) -> dict[str, Any]:
    """The same as JSON."""
    medians = {name: o.step_time.median for name, o in outcomes.items()}
    return {
        "accuracy": {name: o.accuracy for name, o in outcomes.items()},
        "loss": {name: o.loss for name, o in outcomes.items()},
        "seconds_per_step": medians,
        "speedup": medians["eager"] / medians["compiled"],
        "cost": vars(cost),
        "compile": {"cold": vars(times[0]), "warm": vars(times[1])},
    }
