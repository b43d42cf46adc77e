"""Events of one kind summed up, and the table of them.

The names are those of PyTorch's profiler (``cpu_time_total``, ``self_cuda_time_total``,
``count``); times are microseconds. Beside them stand bytes, arithmetic, the share of the roofline
(Williams, Waterman, Patterson 2009, "Roofline"), the user's lines and the module.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath

from flamec.profiler.events import Event
from flamec.profiler.peaks import Peaks, device_peaks

_MICRO = 1e-3  # of a nanosecond


@dataclass
class FunctionEventAvg:
    """All events of one name, or of one name and one choice of shapes.

    ``bytes`` and ``flops`` are of all runs together; ``flops_per_second`` and so on are by the
    time that the work itself took. ``location`` is the user's line, ``module`` the paths of the
    modules.
    """

    key: str
    kind: str
    device: str
    count: int = 0
    bytes: int = 0
    flops: int = 0
    input_shapes: tuple[tuple[int, ...], ...] = ()
    operations: tuple[str, ...] = ()
    locations: tuple[str, ...] = ()
    module: str = ""
    matrix: bool = False
    dtype: str = ""
    nanoseconds: int = 0
    self_nanoseconds: int = 0
    work_elsewhere: bool = False

    def add(self, event: Event) -> None:
        self.count += event.runs
        self.bytes += event.moved
        self.flops += event.flops
        self.nanoseconds += event.duration
        self.self_nanoseconds += event.self_time

    @property
    def is_on_device(self) -> bool:
        return self.device != "cpu"

    @property
    def cpu_time_total(self) -> float:
        return 0.0 if self.is_on_device else self.nanoseconds * _MICRO

    @property
    def self_cpu_time_total(self) -> float:
        return 0.0 if self.is_on_device else self.self_nanoseconds * _MICRO

    @property
    def cpu_time(self) -> float:
        return self.cpu_time_total / max(self.count, 1)

    @property
    def device_time_total(self) -> float:
        return self.nanoseconds * _MICRO if self.is_on_device else 0.0

    @property
    def self_device_time_total(self) -> float:
        return self.device_time_total

    @property
    def device_time(self) -> float:
        return self.device_time_total / max(self.count, 1)

    cuda_time_total = device_time_total
    self_cuda_time_total = self_device_time_total
    cuda_time = device_time

    @property
    def location(self) -> str:
        """The first of the user's lines."""
        return self.locations[0] if self.locations else ""

    @property
    def bytes_per_second(self) -> float:
        return self.bytes * 1e9 / self.self_nanoseconds if self.self_nanoseconds else 0.0

    @property
    def flops_per_second(self) -> float:
        return self.flops * 1e9 / self.self_nanoseconds if self.self_nanoseconds else 0.0

    def roofline_share(self, peaks: Peaks) -> float | None:
        """The time that the device needs at least, by memory and arithmetic, over the time taken.

        None if nothing is known of the work or of the device. Above 1: the data was in a cache,
        or the arithmetic is cheaper than it counts.
        """
        if not self.self_nanoseconds or self.work_elsewhere or not (self.bytes or self.flops):
            return None
        least = peaks.least_seconds(self.bytes, self.flops, self.dtype, self.matrix)
        return None if least is None else least * 1e9 / self.self_nanoseconds


_SORT_KEYS = (
    "count", "bytes", "flops", "cpu_time", "cpu_time_total", "self_cpu_time_total", "device_time",
    "device_time_total", "self_device_time_total", "cuda_time", "cuda_time_total",
    "self_cuda_time_total",
)  # fmt: skip


class EventList(list[FunctionEventAvg]):
    """Averages in the order of their first events."""

    def table(
        self,
        sort_by: str | None = None,
        row_limit: int = 100,
        max_name_column_width: int = 55,
        peaks: dict[str, Peaks] | None = None,
        header: str | None = None,
    ) -> str:
        """The averages as text, the largest first where ``sort_by`` names an attribute.

        ``peaks``: of each device by its name, to compute shares of the roofline with; those of
        ``device_peaks`` if not given. ValueError for an unknown ``sort_by``.
        """
        rows = list(self)
        if sort_by is not None:
            if sort_by not in _SORT_KEYS:
                raise ValueError(f"table: sort_by={sort_by!r} is none of {', '.join(_SORT_KEYS)}")
            rows.sort(key=lambda row: getattr(row, sort_by), reverse=True)
        shown = rows if row_limit < 0 else rows[:row_limit]
        if peaks is None:
            devices = {r.device for r in shown if (r.bytes or r.flops) and not r.work_elsewhere}
            peaks = {device: device_peaks(device) for device in devices}
        on_device = any(r.is_on_device for r in self)
        cpu = sum(r.self_cpu_time_total for r in self)
        device = sum(r.self_device_time_total for r in self)
        columns = _columns(on_device)
        cells = [[*_row(r, cpu, device, on_device, peaks, max_name_column_width)] for r in shown]
        lines = [header] if header else []
        lines += _aligned(columns, cells)
        lines.append(f"Self CPU time total: {_time(cpu)}")
        if on_device:
            lines.append(f"Self CUDA time total: {_time(device)}")
        if len(shown) < len(rows):
            lines.append(f"({len(rows) - len(shown)} more rows)")
        lines += [f"Roofline of {name}: {peak}" for name, peak in sorted(peaks.items())]
        return "\n".join(lines)

    def total_average(self) -> FunctionEventAvg:
        """All in one."""
        total = FunctionEventAvg("Total", "", "cpu")
        for row in self:
            total.count += row.count
            total.bytes += row.bytes
            total.flops += row.flops
            total.nanoseconds += row.self_nanoseconds
            total.self_nanoseconds += row.self_nanoseconds
        return total

    def __str__(self) -> str:
        return self.table()


def averages(events: Iterable[Event], by_shape: bool = False) -> EventList:
    """Sum events up by name, kind and device, with ``by_shape`` by the shapes of operands, too."""
    found: dict[tuple[object, ...], FunctionEventAvg] = {}
    lines: dict[tuple[object, ...], dict[str, None]] = {}
    for event in events:
        shapes = event.shapes if by_shape else ()
        key = (event.name, event.kind, event.device, shapes)
        row = found.get(key)
        if row is None:
            row = found[key] = FunctionEventAvg(
                event.name,
                event.kind,
                event.device,
                input_shapes=shapes,
                operations=event.operations,
                module=event.module,
                matrix=event.matrix,
                dtype=event.dtype,
                work_elsewhere=bool(event.kernel_device),
            )
            lines[key] = {}
        row.add(event)
        if row.module != event.module:
            row.module = ", ".join(dict.fromkeys(f"{row.module}, {event.module}".split(", ")))
        lines[key].update(dict.fromkeys(event.locations))
    for key, row in found.items():
        row.locations = tuple(lines[key])
    return EventList(found.values())


# the table ---------------------------------------------------------------------------------
def _columns(on_device: bool) -> list[str]:
    device = ["Self CUDA", "Self CUDA %", "CUDA avg"] if on_device else []
    cpu = ["Self CPU", "Self CPU %", "CPU total", "CPU avg"]
    work = ["# of Calls", "Bytes", "FLOPs", "GB/s", "GFLOP/s", "Roofline"]
    return ["Name", *cpu, *device, *work, "Line", "Module"]


def _row(
    row: FunctionEventAvg,
    cpu: float,
    device: float,
    on_device: bool,
    peaks: dict[str, Peaks],
    width: int,
) -> Iterable[str]:
    name = row.key if not row.operations else f"{row.key} {'+'.join(dict.fromkeys(row.operations))}"
    yield name if width < 0 or len(name) <= width else name[: width - 1] + "…"
    here = not row.is_on_device
    yield _time(row.self_cpu_time_total) if here else ""
    yield f"{100 * row.self_cpu_time_total / cpu:.1f}%" if here and cpu else ""
    yield _time(row.cpu_time_total) if here else ""
    yield _time(row.cpu_time) if here else ""
    if on_device:
        yield "" if here else _time(row.self_device_time_total)
        yield "" if here or not device else f"{100 * row.self_device_time_total / device:.1f}%"
        yield "" if here else _time(row.device_time)
    yield str(row.count)
    yield _number(row.bytes)
    yield _number(row.flops)
    measured = not row.work_elsewhere and row.self_nanoseconds > 0
    yield f"{row.bytes_per_second / 1e9:.1f}" if measured and row.bytes else ""
    yield f"{row.flops_per_second / 1e9:.1f}" if measured and row.flops else ""
    share = row.roofline_share(peaks[row.device]) if row.device in peaks else None
    yield "" if share is None else f"{100 * share:.0f}%"
    file, _, line = row.location.rpartition(":")
    more = f" +{len(row.locations) - 1}" if len(row.locations) > 1 else ""
    yield f"{PurePath(file).name}:{line}{more}" if file else ""
    first, *others = row.module.split(", ")
    yield f"{first} +{len(others)}" if others else first


def _aligned(columns: list[str], cells: list[list[str]]) -> list[str]:
    left = {columns.index(name) for name in ("Name", "Line", "Module")}
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    rule = "  ".join("-" * width for width in widths)

    def line(row: list[str]) -> str:
        parts = (
            text.ljust(width) if position in left else text.rjust(width)
            for position, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join(parts).rstrip()

    return [rule, line(columns), rule, *map(line, cells), rule]


def _time(microseconds: float) -> str:
    if microseconds >= 1e6:
        return f"{microseconds / 1e6:.3f}s"
    return f"{microseconds / 1e3:.3f}ms" if microseconds >= 1e3 else f"{microseconds:.3f}us"


def _number(count: int) -> str:
    if not count:
        return ""
    value, units = float(count), iter(("", "K", "M", "G", "T", "P"))
    unit = next(units)
    while value >= 1000:
        value, unit = value / 1000, next(units)
    return f"{count}" if unit == "" else f"{value:.2f}{unit}"
