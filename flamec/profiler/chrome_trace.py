"""Events as a file for chrome://tracing and Perfetto.

The format is Google's "Trace Event Format", JSON: complete events ("X") with times in
microseconds, which viewers nest by their times, and metadata events ("M") with names. A process
of the trace is a device; a thread of it is a thread of the host or a stream.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flamec.profiler.events import Event

_CATEGORIES = {
    "operation": "cpu_op",
    "program": "program",
    "kernel": "kernel",
    "module": "module",
    "user": "user_annotation",
    "compile": "compile",
}


def trace_data(events: Sequence[Event]) -> dict[str, Any]:
    """The content of the file."""
    host = os.getpid()
    devices = sorted({e.device for e in events} | {"cpu"}, key=lambda d: (d != "cpu", d))
    processes = {d: host if d == "cpu" else host + 1 + n for n, d in enumerate(devices)}
    rows: list[dict[str, Any]] = []
    for device, process in processes.items():
        rows.append(_metadata("process_name", process, 0, {"name": device}))
        rows.append(_metadata("process_sort_index", process, 0, {"sort_index": process - host}))
    start = min((e.start for e in events), default=0)
    numbers = {lane: number for number, lane in enumerate(sorted({e.lane for e in events}))}
    for (device, lane), number in numbers.items():
        name = f"thread {lane}" if device == "cpu" else f"stream {lane:#x}"
        rows.append(_metadata("thread_name", processes[device], number, {"name": name}))
    for event in events:
        rows.append(_complete(event, start, processes[event.device], numbers[event.lane]))
    return {"traceEvents": rows, "displayTimeUnit": "ms", "otherData": {"producer": "flamec"}}


def export(events: Sequence[Event], path: str | Path) -> None:
    """Write the file; a name that ends in .gz is compressed."""
    text = json.dumps(trace_data(events), separators=(",", ":"))
    target = Path(path)
    if target.suffix == ".gz":
        import gzip

        target.write_bytes(gzip.compress(text.encode()))
        return
    target.write_text(text)


def _complete(event: Event, start: int, process: int, thread: int) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    if event.operations:
        arguments["operations"] = ", ".join(event.operations)
    if event.locations:
        arguments["lines"] = list(event.locations)
    if event.module:
        arguments["module"] = event.module
    if event.shapes:
        arguments["shapes"] = [list(shape) for shape in event.shapes]
    if event.moved:
        arguments["bytes"] = event.moved
    if event.flops:
        arguments["flops"] = event.flops
    if event.runs > 1:
        arguments["runs"] = event.runs
        arguments["nanoseconds of all runs"] = event.duration
    return {
        "ph": "X",
        "name": event.name,
        "cat": _CATEGORIES[event.kind],
        "ts": (event.start - start) / 1e3,
        "dur": (event.end - event.start) / 1e3,
        "pid": process,
        "tid": thread,
        "args": arguments,
    }


def _metadata(name: str, process: int, thread: int, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"ph": "M", "name": name, "pid": process, "tid": thread, "args": arguments}
