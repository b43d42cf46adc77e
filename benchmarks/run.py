"""``python -m benchmarks.run [NAME…]``: measure all workloads or the named ones.

Prints one table a workload as soon as it is measured; ``--json FILE`` also writes all rounds
with a description of the machine and the versions. A name is that of a file or of a workload.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.frameworks import THREADS, limit_threads
from benchmarks.harness import Effort, Report, Timing, Workload, measure

FILES = (
    "seed_step",
    "mlp_step",
    "elementwise_chain",
    "softmax",
    "layer_norm",
    "cross_entropy",
    "matmul_epilogue",
    "column_sum",
    "transposed_copy",
    "gpt_step",
    "encoder_step",
    "convnet_step",
    "dynamic_shapes",
    "resnet_step",
    "lstm_step",
    "first_call",
    "compile_time",
    "import_time",
)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(FILES)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured")
    parser.add_argument("--only", metavar="TEXT", help="contenders whose name contains TEXT")
    parser.add_argument("--rounds", type=int, default=Effort.rounds)
    parser.add_argument(
        "--seconds",
        type=float,
        default=Effort.section_seconds,
        metavar="S",
        help="bound of the rounds of one workload together",
    )
    choice = parser.parse_args(arguments)
    limit_threads()
    effort = Effort(rounds=choice.rounds, section_seconds=choice.seconds)
    reports = []
    for workload in chosen(choice.names, choice.only):
        report = measure(workload, effort)
        print(table(report), flush=True)
        reports.append(report)
    if choice.json is not None:
        result = {"machine": machine(), "reports": [r.to_json() for r in reports]}
        choice.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def chosen(names: list[str], only: str | None) -> list[Workload]:
    """The workloads that ``names`` mean (all for none), with the contenders that ``only`` means."""
    known: list[tuple[str, Workload]] = []
    for file in FILES:
        module = importlib.import_module(f"benchmarks.{file}")
        known += [(file, workload) for workload in module.WORKLOADS]
    unknown = set(names) - {name for file, w in known for name in (file, w.name)}
    if unknown:
        sys.exit(f"no such workload: {', '.join(sorted(unknown))}; there are {', '.join(FILES)}")
    picked = [w for file, w in known if not names or file in names or w.name in names]
    if only is None:
        return picked
    return [
        Workload(
            w.name,
            w.description,
            [c for c in w.contenders if only in c.name],
            w.goal,
            w.tolerance,
            w.check_after,
        )
        for w in picked
    ]


def table(report: Report) -> str:
    """A workload's timings as text; the last column is relative to flamec compiled."""
    goal = "" if report.goal is None else f"; goal {duration(report.goal)}"
    lines = [f"{report.workload}: {report.description}{goal}"]
    base = report.timing("flamec compiled") or report.timing("flamec")
    for timing in report.timings:
        lines.append(_row(timing, base))
    return "\n".join(lines) + "\n"


def _row(timing: Timing, base: Timing | None) -> str:
    if not timing.rounds:
        return f"  {timing.name:<16} {timing.problem}"
    spread = f"{duration(timing.fastest)} … {duration(timing.slowest)}"
    ratio = "" if base is None else f"{timing.median / base.median:8.2f}x"
    return f"  {timing.name:<16} {duration(timing.median):>9}   {spread:<23} {ratio}"


def duration(seconds: float) -> str:
    """A time with a unit that suits it."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * factor >= 1 or unit == "µs":
            return f"{seconds * factor:.3g} {unit}"
    raise AssertionError


def machine() -> dict[str, Any]:
    """What the numbers depend on, without what identifies a computer."""
    versions = {}
    for package in ("flamec", "torch", "jax", "numpy", "scipy", "scipy-openblas32"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "processor": _processor(),
        "threads": THREADS,
        "processors": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": versions,
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    sys.exit(main())
