"""What a kernel is given when its function runs with the example's arguments.

In: a function, example arguments, and a kernel of its program in C. Out: a file with the contents
of the kernel's parameters. The function is run up to the kernel, in the build with a clock between
steps (``runtime/cpu/flamec_profile.h``), and then left.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from flamec.cli.example_inputs import Example
from flamec.cli.failure import CommandFailed
from flamec.cli.kernel_rows import Program
from flamec.cli.target import Target, user_code
from flamec.ir.plan import ExecutionPlan
from flamec.ir.shape import evaluate_dim
from flamec.runtime.recording import ProgramRun, Stopped, set_recorder
from flamec.standalone import save_inputs as save


def save_inputs(
    target: Target, example: Example, program: Program, number: int, file: Path
) -> None:
    """Save what the kernel of step ``number`` reads; CommandFailed if it is not reached."""
    alone = program.alone(number)
    watch = _Watch(program.compiled.plan, number, program.compiled.arguments[number])
    function = target.fresh()
    set_recorder(watch)
    try:
        with user_code(f"running {target.name}"), suppress(Stopped):
            function(*example.args, **example.kwargs)
    finally:
        set_recorder(None)
    if watch.arrays is None:
        name = program.compiled.plan.steps[number].name
        raise CommandFailed(f"{name} is not run by a call of {target.name} with these arguments")
    save(alone.plan, watch.arrays, file)


class _Watch:
    """A recorder that stops one program before one of its steps and copies its parameters."""

    def __init__(self, plan: ExecutionPlan, step: int, arguments: Sequence[int]) -> None:
        self.anchors: dict[int, Any] = {}
        self.arrays: dict[int, np.ndarray] | None = None
        self._source, self._step, self._arguments = plan.source, step, arguments

    def stop_before(self, plan: ExecutionPlan) -> int:
        return self._step if plan.source == self._source else -1

    def stopped(
        self, plan: ExecutionPlan, bindings: Mapping[str, int], addresses: Sequence[int | None]
    ) -> None:
        self.arrays = {}
        for parameter, number in enumerate(self._arguments):
            buffer = plan.buffers[number]
            nbytes = evaluate_dim(buffer.bytes, bindings)
            content = ctypes.string_at(addresses[number] or 0, nbytes) if nbytes else b""
            self.arrays[parameter] = np.frombuffer(content, buffer.dtype.numpy)

    def timed_build(self, label: str, start: int, end: int) -> None:
        pass

    def program_run(self, run: ProgramRun) -> None:
        pass

    def device_run(self, run: Any) -> None:
        pass
