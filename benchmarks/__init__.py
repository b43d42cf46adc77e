"""One file a workload; eager, compiled and peers side by side. ``python -m benchmarks.run``."""
