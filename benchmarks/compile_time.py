"""What compilation costs, and how that grows with the depth of a transformer.

A step of training (forward, backward, clipping, AdamW) of a GPT-2 of width 64 with 4, 12 and 48
layers, in fresh processes. ``compile_time_cold_N``: the first call with an empty cache;
``compile_time_forward_N``: the same of the model alone, nothing recorded.
``compile_time_warm_N``: from the import of the framework to the end of the first call, with the
cache that another process left. Times are seconds of the processor, of the process and of the
compilers that it starts, so that other work on the machine counts little.
"""

from __future__ import annotations

from benchmarks.harness import Contender, Workload
from benchmarks.subprocesses import cold, warm

LAYERS = (4, 12, 48)
_PROGRAM = """
import resource
def used():
    kinds = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    return sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage, kinds))
from benchmarks.frameworks import limit_threads
limit_threads()
before = used()
from benchmarks import frameworks
from benchmarks.gpu.gpt2 import example
framework = frameworks.{framework}()
gpt2 = example("{framework}")
training = gpt2.Training(gpt2.Config(256, 64, {layers}, 4, 64))
tokens = framework.zeros(2, 64, dtype=framework.int64)
step = framework.compile({function})
{restart}
with framework.set_grad_enabled({training}):
    step({arguments}).sum().item()
print(used() - before)
"""


def _contenders(layers: int, is_cold: bool, is_forward: bool = False) -> list[Contender]:
    found = []
    for name, framework in (("flamec compiled", "flamec"), ("torch.compile", "torch")):
        restart = "before = used()" if is_cold else ""
        program = _PROGRAM.format(
            framework=framework,
            layers=layers,
            restart=restart,
            function="training.model" if is_forward else "training.step",
            arguments="tokens" if is_forward else "tokens, tokens",
            training=not is_forward,
        )
        found.append((cold if is_cold else warm)(name, program))
    return found


WORKLOADS = tuple(
    Workload(
        f"compile_time_{'cold' if is_cold else 'warm'}_{layers}",
        f"processor seconds of the first step of a GPT-2 with {layers} layers, "
        + ("empty cache" if is_cold else "from import on, cache filled by another process"),
        _contenders(layers, is_cold),
        goal=None if is_cold else 1.5,
    )
    for layers in LAYERS
    for is_cold in (True, False)
) + tuple(
    Workload(
        f"compile_time_forward_{layers}",
        f"processor seconds of the first call of a GPT-2 with {layers} layers, empty cache",
        _contenders(layers, True, True),
    )
    for layers in LAYERS
)
