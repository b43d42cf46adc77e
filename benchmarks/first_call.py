"""The first call of the tiny network's training step in a fresh process, import not counted.

Cold: with an empty kernel cache. Warm: with the cache that an earlier process left.
Construction of model, optimizer and inputs is not counted either.

``first_step_gpt2`` and ``first_step_gpt2_gpu``: from before the import of the framework to the end
of the first step of GPT-2, with the cache of an earlier process; the construction of the model is
left out. On the CPU it is a GPT-2 of width 64, on a GPU the one with 124 million parameters.
"""

from __future__ import annotations

from benchmarks.harness import Contender, Workload
from benchmarks.subprocesses import cold, warm

_PROGRAM = """
import time
from benchmarks.frameworks import limit_threads
limit_threads()
from benchmarks import frameworks
from benchmarks.mlp import Mlp
from benchmarks.seed_step import BATCH, WIDTHS
module = frameworks.{framework}()
mlp = Mlp(WIDTHS, BATCH)
step = {make}
started = time.perf_counter()
float(step())
print(time.perf_counter() - started)
"""
_GPT2 = """
import time
started = time.perf_counter()
from benchmarks.frameworks import limit_threads
limit_threads()
import {framework} as framework
imported = time.perf_counter()
from benchmarks.gpu.gpt2 import example
gpt2 = example("{framework}")
device = "{device}"
if device == "cuda" and not framework.cuda.is_available():
    from benchmarks.harness import AbsentError
    raise AbsentError("there is no GPU")
small = gpt2.Config(256, 64, 12, 4, 64)
config, batch = (small, 2) if device == "cpu" else (gpt2.Config(), 32)
training = gpt2.Training(config, device, "float32" if device == "cpu" else "bfloat16")
tokens = framework.zeros(batch, config.context, dtype=framework.int64, device=device)
step = framework.compile(training.step)
if device == "cuda":
    framework.cuda.synchronize()
made = time.perf_counter()
step(tokens, tokens).item()
print(time.perf_counter() - made + imported - started)
"""
_COMPILED = "mlp.build(module, module.compile)"
_EAGER = "mlp.build(module, lambda function: function)"


def _cold(name: str, framework: str, make: str) -> Contender:
    return cold(name, _PROGRAM.format(framework=framework, make=make))


def _warm(name: str, framework: str, make: str) -> Contender:
    return warm(name, _PROGRAM.format(framework=framework, make=make))


WORKLOADS = (
    Workload(
        "first_call_cold",
        "first call of the seed step, empty kernel cache",
        [
            _cold("flamec eager", "flamec", _EAGER),
            _cold("flamec compiled", "flamec", _COMPILED),
            _cold("torch eager", "torch", _EAGER),
            _cold("torch.compile", "torch", _COMPILED),
            _cold("jax", "jax", "mlp.in_jax()"),
        ],
        goal=1.0,
    ),
    Workload(
        "first_call_warm",
        "first call of the seed step, kernel cache filled by another process",
        [
            _warm("flamec compiled", "flamec", _COMPILED),
            _warm("torch.compile", "torch", _COMPILED),
            _warm("jax", "jax", "mlp.in_jax()"),
        ],
        goal=0.05,
    ),
    *(
        Workload(
            f"first_step_gpt2{'_gpu' if device == 'cuda' else ''}",
            f"import and first step of GPT-2 on {device}, cache filled by another process",
            [
                warm("flamec compiled", _GPT2.format(framework="flamec", device=device)),
                warm("torch.compile", _GPT2.format(framework="torch", device=device)),
            ],
            goal=1.5,
        )
        for device in ("cpu", "cuda")
    ),
)
