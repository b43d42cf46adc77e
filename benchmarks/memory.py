"""``python -m benchmarks.memory [NAME ...]``: the most memory that training steps take on the CPU.

Every contender runs in a process of its own, flamec's compiled ones twice, so that the second
finds its programs in the cache. A library that stands before ``malloc`` and ``mmap``
(``counting_allocator.c``, preloaded) counts blocks of 64 KiB and more, whoever asks for them, but
for OpenBLAS, which maps buffers that it hardly touches. A figure is the most during two steps
after three others, less what there was before the model was built: parameters, gradients,
optimizer state and inputs are in it, as are blocks that a framework keeps for later.
``predicted``: what flamec's plan says for the same step (``memory_use``).
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import frameworks
from benchmarks.harness import Step

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("mlp", "gpt", "resnet", "encoder", "lstm")
BUDGETS = (1.0, 0.5, 0.0)
CONTENDERS = (
    "flamec eager",
    *(f"flamec {budget:g}" for budget in BUDGETS),
    "torch eager",
    "torch.compile",
)
WARM_UP, COUNTED = 3, 2
INTERNED = 1 << 15


def build(name: str, framework: Any, compile: Callable[[Any], Any], small: bool = False) -> Step:
    """One training step, as the benchmarks of time have it, or a ``small`` one."""
    if name == "mlp":
        from benchmarks.mlp import Mlp

        widths = (512, 512, 512, 10) if small else (784, 512, 512, 10)
        return Mlp(widths, 1024 if small else 128).build(framework, compile)
    if name == "gpt":
        from benchmarks.gpt import GptSize, training

        size = GptSize(2, 128, 2, 64, 8, 1024) if small else GptSize()
        return training(framework, compile, size)
    if name == "encoder":
        from benchmarks import encoder_step

        shape = encoder_step.EncoderSize(2, 128, 2, 64, 16) if small else None
        return encoder_step.build(framework, compile, size=shape)
    if name == "lstm":
        from benchmarks import lstm_step

        loop = lstm_step.LstmSize(32, 64, 128, 256, 1) if small else None
        return lstm_step.build(framework, compile, size=loop)
    from benchmarks import resnet_step

    return resnet_step.build(framework, compile, **({"batch": 2, "size": 32} if small else {}))


def run_contender(name: str, contender: str, small: bool = False) -> dict[str, Any]:
    """Measure in this process, into which the counting library is preloaded."""
    count = ctypes.CDLL(None)
    for function in (count.counted_bytes, count.most_counted_bytes):
        function.restype = ctypes.c_long
    frameworks.limit_threads()
    framework = frameworks.torch() if contender.startswith("torch") else frameworks.flamec()
    made: list[Any] = []

    def compiled(function: Any) -> Any:
        if contender.endswith("eager"):
            return function
        options = {}
        if contender.startswith("flamec "):
            options["memory_budget"] = float(contender.partition(" ")[2])
        made.append(framework.compile(function, **options))
        return made[-1]

    warm_up = threading.Thread(target=load_libraries, args=(framework, compiled))
    warm_up.start()  # whose arena goes with it
    warm_up.join()
    made.clear()
    framework.manual_seed(0)
    _grow_interned_names()
    gc.collect()
    before = count.counted_bytes()
    step = build(name, framework, compiled, small)
    losses = [float(step()) for _ in range(WARM_UP)]
    gc.collect()
    count.count_again()
    losses += [float(step()) for _ in range(COUNTED)]
    found = {"bytes": count.most_counted_bytes() - before, "losses": losses}
    if made and contender.startswith("flamec"):
        use = made[0].memory_use()
        found |= {"predicted": use.total, "arena": use.arena}
    return found


def _grow_interned_names() -> None:
    """Let the interpreter's table of interned names double now, not while something is counted."""
    for number in range(INTERNED):
        sys.intern(f"name {number}")


def load_libraries(framework: Any, compile: Callable[[Any], Any]) -> None:
    """Let libraries for matrices take what they keep for themselves before counting begins."""

    @compile
    def multiply(a: Any) -> Any:
        return (a @ a).tanh().sum()

    matrix = framework.ones(160, 160)
    for _ in range(3):
        float(multiply(matrix))


def measure(
    name: str,
    contender: str,
    library: Path,
    cache: Path,
    small: bool = False,
    seconds: float = 600.0,
) -> dict[str, Any]:
    """The same in a process of its own; ``problem`` says why there is no figure."""
    command = [sys.executable, "-m", "benchmarks.memory", name, "--contender", contender]
    command += ["--small"] * small
    environment = {
        **os.environ,
        "LD_PRELOAD": str(library),
        "PYTHONMALLOC": "malloc",
        "FLAMEC_CACHE_DIR": str(cache / "flamec"),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "torch"),
    }
    runs = 2 if contender.startswith("flamec") and contender != "flamec eager" else 1
    for _ in range(runs):
        try:
            finished = subprocess.run(
                command,
                cwd=ROOT,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=seconds,
            )
        except subprocess.TimeoutExpired:
            return {"problem": f"not done in {seconds:g} s"}
        if finished.returncode:
            lines = finished.stderr.strip().splitlines() or ["no message"]
            return {"problem": lines[-1][:200]}
    result: dict[str, Any] = json.loads(finished.stdout.strip().splitlines()[-1])
    return result


def counting_library(folder: Path) -> Path:
    """Compile the library that counts."""
    from flamec.runtime.cpu.compiler import find_compiler

    library = folder / "counting_allocator.so"
    source = Path(__file__).with_name("counting_allocator.c")
    flags = ["-O2", "-shared", "-fPIC", "-o", str(library), str(source)]
    subprocess.run([*find_compiler().command, *flags], check=True)
    return library


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--only", nargs="*", metavar="CONTENDER", default=CONTENDERS)
    parser.add_argument("--contender", help="measure one in this process, for the program itself")
    parser.add_argument("--small", action="store_true", help="smaller steps, for tests")
    parser.add_argument("--seconds", type=float, default=600.0, help="that a process may take")
    parser.add_argument("--json", type=Path, metavar="FILE")
    choice = parser.parse_args(arguments)
    if choice.contender:
        print(json.dumps(run_contender(choice.names[0], choice.contender, choice.small)))
        return 0
    rows = []
    with tempfile.TemporaryDirectory(prefix="flamec-memory-") as folder:
        library = counting_library(Path(folder))
        for name in choice.names or NAMES:
            for contender in choice.only:
                result = measure(
                    name, contender, library, Path(folder), choice.small, choice.seconds
                )
                rows.append({"name": name, "contender": contender, **result})
                print(line(rows[-1]), flush=True)
    if choice.json is not None:
        choice.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


def line(row: dict[str, Any]) -> str:
    """One figure as text, in MiB."""
    start = f"{row['name']:<8} {row['contender']:<14}"
    if "problem" in row:
        return f"{start} {row['problem']}"
    text = f"{start} {row['bytes'] / 2**20:8.1f} MiB"
    if "predicted" in row:
        text += f"  predicted {row['predicted'] / 2**20:8.1f} MiB"
    return f"{text}  loss {row['losses'][-1]:.4f}"


if __name__ == "__main__":
    sys.exit(main())
