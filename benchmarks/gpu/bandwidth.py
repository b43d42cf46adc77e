"""Bandwidth of generated kernels beside PyTorch and JAX, in one process on one GPU.

``python -m benchmarks.gpu.bandwidth [--rows TEXT ...] [--tiles] [--seconds 20] [--json FILE]``, in
the repository. Inputs are random; flamec's results are compared with PyTorch's; times are CUDA
events around many calls, the median of several rounds. A peer that fails is printed and passed
over; the exit status is 1 if flamec failed at a row or its result was wrong. "GB/s" counts the
bytes that the work must move, each input read once and each output written once. ``--tiles``
times each row with other tiles, too.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.gpu.bandwidth_check import Operands, check
from benchmarks.gpu.bandwidth_graphs import Programs, programs
from benchmarks.gpu.bandwidth_jax import jax_call
from benchmarks.gpu.bandwidth_rows import WORK, Row
from benchmarks.gpu.bandwidth_tiles import VARIANTS, chooser
from flamec.codegen.triton.compile_graph import compile_graph
from flamec.config import default_options
from flamec.ir.graph import Graph
from flamec.ir.passes.plan_memory import plan_memory
from flamec.ir.plan import ExecutionPlan
from flamec.runtime.cuda.compile_worker import compile_kernels
from flamec.runtime.cuda.device import CudaDevice
from flamec.runtime.cuda.stream import Event
from flamec.runtime.kernel_cache import KernelCache

ROUNDS = 7
ROUND_SECONDS = 0.03

Call = Callable[[], Any]


class Clock:
    """Times calls by CUDA events in flamec's current stream, or in another framework's."""

    def __init__(self, device: CudaDevice, seconds: float) -> None:
        self.device, self.seconds = device, seconds

    def flamec(self, call: Call) -> float:
        stream = self.device.current_stream()

        def batch(count: int) -> float:
            start, stop = Event(enable_timing=True), Event(enable_timing=True)
            start.record(stream)
            for _ in range(count):
                call()
            stop.record(stream)
            stop.synchronize()
            return start.elapsed_time(stop) * 1e-3

        return self._median(batch)

    def torch(self, torch: Any, call: Call) -> float:
        def batch(count: int) -> float:
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(count):
                call()
            stop.record()
            stop.synchronize()
            return float(start.elapsed_time(stop)) * 1e-3

        return self._median(batch)

    def host(self, call: Call) -> float:
        """By the host's clock: ``call`` gives something to wait for."""

        def batch(count: int) -> float:
            begin = time.perf_counter()
            for _ in range(count):
                result = call()
            result.block_until_ready()
            return time.perf_counter() - begin

        return self._median(batch)

    def _median(self, batch: Callable[[int], float]) -> float:
        end = time.perf_counter() + self.seconds
        for _ in range(3):
            batch(1)
        count = max(1, min(200, round(ROUND_SECONDS / max(1e-6, batch(5) / 5))))
        rounds = []
        for _ in range(ROUNDS):
            rounds.append(batch(count) / count)
            if time.perf_counter() > end:
                break
        return statistics.median(rounds)


class WrongResultError(Exception):
    """flamec's result of a row differs from the oracle's."""


class Bench:
    """One GPU, the frameworks that are installed, and the measurements so far."""

    def __init__(self, seconds: float) -> None:
        options = default_options()
        cache = KernelCache(options.cache_folder, options.cache_bytes)
        self.jobs = os.cpu_count() or 1
        self.device = CudaDevice(0, cache, plan_memory, jobs=self.jobs)
        self.clock = Clock(self.device, seconds / 4)
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        self.torch = _imported("torch")
        self.jax = _imported("jax")
        self.records: list[dict[str, Any]] = []

    def copy(self) -> None:
        """What the device itself reaches: the ceiling."""
        nbytes = 1 << 29
        source, a = self.device.empty(nbytes)
        target, b = self.device.empty(nbytes)
        self.device.fill(a, 1, nbytes)
        seconds = self.clock.flamec(lambda: self.device.copy(b, a, nbytes))
        self._record("device copy 512 MiB", "driver", seconds, 2 * nbytes)
        del source, target

    def row(self, row: Row, tiles: bool) -> None:
        """Measure a row with all frameworks."""
        made = programs(row)
        operands = Operands(row, self.device, self.torch)
        call, outputs = self._flamec(row, made, operands)
        operands.reset_state()
        call()
        self.device.synchronize()
        wrong = check(row, operands, outputs)
        seconds = self.clock.flamec(call)
        note = wrong or (
            "" if self.torch or row.random else "not compared: PyTorch is not installed"
        )
        self._record(row.name, "flamec", seconds, row.bytes, note)
        self._peers(row, operands)
        if tiles:
            self._tiles(row, made, operands)
        if wrong:
            raise WrongResultError(f"{row.name}: {wrong}")

    def _peers(self, row: Row, operands: Operands) -> None:
        """Measure the frameworks that are installed; one that fails is printed and passed over."""
        torch, jax = self.torch, self.jax
        if torch is None:
            return  # it makes the operands

        def of_torch(compiled: bool) -> float:
            return self.clock.torch(torch, operands.torch_call(compiled=compiled))

        def of_jax() -> float | None:
            found = jax_call(jax, row, operands.tensors)
            return None if found is None else self.clock.host(found)

        peers: list[tuple[str, Callable[[], float | None]]] = [
            ("torch eager", lambda: of_torch(False)),
            ("torch.compile", lambda: of_torch(True)),
        ]
        if jax is not None:
            peers.append(("JAX jit", of_jax))
        for name, measure in peers:
            try:
                seconds = measure()
            except Exception as error:  # anything that another framework may raise
                print(f"{row.name}: {name} failed: {str(error)[:200]}", flush=True)
                continue
            if seconds is not None:
                self._record(row.name, name, seconds, row.bytes)

    def _flamec(
        self, row: Row, made: Programs, operands: Operands, variant: str = "proposed"
    ) -> tuple[Call, list[Any]]:
        """The call of a row's program, and where its outputs are."""
        if made.before is None:
            inputs = [operands.address(position) for position in made.inputs]
            return self._bound(made.timed, inputs, operands, variant)
        everything = [operands.address(i) for i in range(len(row.operands))]
        before, kept = self._bound(made.before, everything, operands, "proposed")
        before()
        saved = [operands.address_of(kept[i]) for i in made.saved]
        inputs = [*saved, *(operands.address(i) for i in made.inputs), operands.gradient_address()]
        operands.held.append(kept)
        return self._bound(made.timed, inputs, operands, variant)

    def _bound(
        self, graph: Graph, inputs: list[int], operands: Operands, variant: str
    ) -> tuple[Call, list[Any]]:
        plan = compile_graph(graph, choose=chooser(variant)).plan
        bound = self.device.load(plan).bind(())
        for buffer, address in zip(plan.inputs, inputs, strict=True):
            bound.addresses[buffer] = address
        outputs = []
        for output in plan.outputs:
            result, address = operands.output(output.type)
            bound.addresses[output.buffer] = address
            outputs.append(result)
        return bound, outputs

    def _tiles(self, row: Row, made: Programs, operands: Operands) -> None:
        """Other tiles, each compiled before the first is timed."""
        plans: dict[str, ExecutionPlan] = {}
        for variant in VARIANTS:
            plan = compile_graph(made.timed, choose=chooser(variant)).plan
            if all(
                plan.kernels != known.kernels or plan.actions != known.actions
                for known in plans.values()
            ):
                plans[variant] = plan
        kernels = [k for plan in plans.values() for k in plan.kernels]
        compile_kernels(kernels, self.device.target, self.device.cache, self.jobs)
        end = time.perf_counter() + 4 * self.clock.seconds
        for variant in plans:
            if time.perf_counter() > end:
                print(f"{row.name}: out of time before the tile {variant!r}", flush=True)
                return
            try:
                call, outputs = self._flamec(row, made, operands, variant)
                operands.reset_state()
                call()
                self.device.synchronize()
                wrong = check(row, operands, outputs)
                self._record(
                    row.name, f"flamec, {variant}", self.clock.flamec(call), row.bytes, wrong
                )
            except Exception as error:  # a tile that a device has no room for
                print(
                    f"{row.name}: {variant}: {type(error).__name__}: {str(error)[:200]}", flush=True
                )

    def _record(
        self, row: str, contender: str, seconds: float, nbytes: int, note: str = ""
    ) -> None:
        speed = nbytes / seconds / 1e9
        record = {
            "row": row,
            "contender": contender,
            "us": seconds * 1e6,
            "GB/s": speed,
            "note": note,
        }
        self.records.append(record)
        print(
            f"{row:56s} {contender:28s} {seconds * 1e6:10.1f} us {speed:8.0f} GB/s  {note}",
            flush=True,
        )

    def print_ratios(self) -> None:
        """Each peer's time over flamec's."""
        times: dict[str, dict[str, float]] = {}
        for record in self.records:
            times.setdefault(record["row"], {})[record["contender"]] = record["us"]
        for row, found in times.items():
            ours = found.get("flamec")
            peers = [(n, t) for n, t in found.items() if not n.startswith("flamec")]
            if ours and peers:
                print(f"{row}: " + ", ".join(f"{n} / flamec {t / ours:.2f}" for n, t in peers))


def _imported(name: str) -> Any:
    try:
        return __import__(name)
    except ImportError:
        return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", nargs="*", default=[""], help="rows whose name contains a text")
    parser.add_argument("--tiles", action="store_true", help="time other tiles, too")
    parser.add_argument("--seconds", type=float, default=20.0, help="most seconds for a row")
    parser.add_argument("--json", type=Path, help="file for the results")
    arguments = parser.parse_args()
    bench = Bench(arguments.seconds)
    print(f"{bench.device.properties.name}", flush=True)
    bench.copy()
    failed = []
    for name, row in WORK.items():
        if not any(text in name for text in arguments.rows):
            continue
        try:
            bench.row(row, arguments.tiles)
        except Exception:  # the other rows are still worth having
            traceback.print_exc()
            failed.append(name)
        if arguments.json:
            arguments.json.write_text(json.dumps(bench.records, indent=1))
    bench.print_ratios()
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
