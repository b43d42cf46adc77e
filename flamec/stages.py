"""The stages of a compiled program as text, made when asked for.

``programs[0].stages["optimized"]`` prints the graph after all passes; the command
``flamec dump`` shows the same with the user's source lines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from flamec.ir.kernel_printer import print_kernel
from flamec.ir.printer import print_graph
from flamec.prepared import Prepared


class Stages(Mapping[str, str]):
    """Texts by stage: ``traced``, ``optimized``, ``fused``, ``kernel``, ``plan``, ``source``."""

    def __init__(self, prepared: Prepared) -> None:
        self._makers: dict[str, Callable[[], str]] = {
            "traced": lambda: print_graph(prepared.graph),
            "optimized": lambda: print_graph(prepared.optimized),
            "fused": lambda: _fused(prepared),
            "kernel": lambda: _kernels(prepared),
            "plan": lambda: _plan(prepared),
            "source": lambda: prepared.compiled.plan.source,
        }

    def __getitem__(self, stage: str) -> str:
        return self._makers[stage]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)

    def __repr__(self) -> str:
        return f"<stages {', '.join(self)}>"


def _fused(prepared: Prepared) -> str:
    return "\n".join(str(decision) for decision in prepared.compiled.decisions)


def _kernels(prepared: Prepared) -> str:
    return "\n".join(print_kernel(kernel) for kernel in prepared.compiled.kernels)


def _plan(prepared: Prepared) -> str:
    plan = prepared.compiled.plan
    lines = [
        f"{position:>3} {step.name} ({step.kind}): reads {list(step.reads)}, writes "
        f"{list(step.writes)}, {step.bytes_read} + {step.bytes_written} bytes"
        for position, step in enumerate(plan.steps)
    ]
    buffers = [
        f"buffer {position} {b.name} ({b.kind}): {b.dtype.name} x {b.elements}"
        for position, b in enumerate(plan.buffers)
    ]
    return "\n".join([*buffers, *lines])
