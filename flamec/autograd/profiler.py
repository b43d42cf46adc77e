"""The older place of ``flamec.profiler.record_function``."""

from flamec.profiler import record_function

__all__ = ["record_function"]
