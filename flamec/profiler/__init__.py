"""Where the time of a program goes; the names are those of ``torch.profiler``.

    with flamec.profiler.profile() as prof:
        step(x, y)
    print(prof.key_averages().table(sort_by="self_cpu_time_total"))
    prof.export_chrome_trace("trace.json")

docs/INSPECTION.md explains what is measured and how.
"""

from flamec.profiler.averages import EventList, FunctionEventAvg
from flamec.profiler.events import Event
from flamec.profiler.peaks import Peaks, device_peaks
from flamec.profiler.profiling import (
    ProfilerActivity,
    profile,
    record_function,
    tensorboard_trace_handler,
)
from flamec.profiler.schedules import ProfilerAction, schedule

__all__ = [
    "Event",
    "EventList",
    "FunctionEventAvg",
    "Peaks",
    "ProfilerAction",
    "ProfilerActivity",
    "device_peaks",
    "profile",
    "record_function",
    "schedule",
    "tensorboard_trace_handler",
]
