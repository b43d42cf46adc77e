"""Options: the only reader of environment variables.

``default_options()`` reads the environment into a frozen record that is passed
on explicitly, so cache keys are right by construction.

Variables: ``FLAMEC_CACHE_DIR`` (folder of the kernel cache),
``FLAMEC_CACHE_SIZE`` (its bound in bytes), ``FLAMEC_NUM_THREADS``, ``FLAMEC_CC``
or ``CC`` (the C compiler), ``FLAMEC_BACKEND`` (``c`` or ``evaluate``), ``FLAMEC_AUTOTUNE``
(``off``, ``fast`` or ``max``), ``FLAMEC_NUMERICS`` (``default`` or ``strict``),
``FLAMEC_VERIFY`` (``0`` or ``1``), ``FLAMEC_REPRODUCTION_DIR``
(folder of reproductions of failed compilations).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ENVIRONMENT = os.environ  # what traced code may read (``guards.py``); options are read below


@dataclass(frozen=True)
class CompileOptions:
    """How functions are compiled.

    - ``backend``: ``"auto"`` (C where a compiler exists, else the NumPy evaluator
      after one warning), ``"c"`` (an error without a compiler) or ``"evaluate"``.
    - ``cache_folder``, ``cache_bytes``: the kernel cache on disk and its bound.
    - ``threads``: worker threads; None: as many as this process may use.
    - ``c_compiler``: the compiler's command; None: the first of cc, gcc, clang, ziglang.
    - ``max_variants``: programs kept for one function before the oldest is dropped.
    - ``autotune``: how schedules of GPU kernels are chosen: ``"off"`` (from the tuning database,
      else by rule of thumb), ``"fast"`` (those that the database lacks are measured, a handful
      each) or ``"max"`` (many each, also where a fast search was made before).
    - ``verify``: check the graph's invariants after each pass.
    - ``reproduction_folder``: where a failed compilation leaves a file that shows it again; None:
      nowhere. By default ``reproductions`` in the cache folder.
    - ``fullgraph``: a function that does not become one program is an error: one that reads a
      tensor's value in Python, or whose Python code has side effects.
    - ``deterministic``: False lets a GPU add in any order what meets in one place.
    - ``numerics``: ``"default"``, or ``"strict"``: elementwise results have the bits of eager mode,
      and sums a documented order (docs/NUMERICS.md).
    - ``check``: ``"nan"``, ``"inf"`` or ``"nan,inf"``: programs are evaluated by NumPy, and the
      first operation that makes such a value from others is an error.
    - ``memory_budget``: from 1 (hardly more than the least work) to 0 (the least memory): how much
      of the memory that values take while they wait for their use is worth having; the rest is
      computed again.
    """

    backend: str = "auto"
    cache_folder: Path = Path()
    cache_bytes: int = 2 << 30
    threads: int | None = None
    c_compiler: str | None = None
    max_variants: int = 8
    verify: bool = False
    reproduction_folder: Path | None = None
    fullgraph: bool = False
    deterministic: bool = True
    autotune: str = "off"
    numerics: str = "default"
    check: str = ""
    memory_budget: float = 1.0


def default_options(**changes: Any) -> CompileOptions:
    """Options from the environment, with ``changes`` applied; ValueError for malformed values."""
    environment = os.environ
    folder = environment.get("FLAMEC_CACHE_DIR")
    if folder is None:
        base = environment.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        folder = str(Path(base) / "flamec")
    options = CompileOptions(
        backend=environment.get("FLAMEC_BACKEND", "auto"),
        cache_folder=Path(folder),
        cache_bytes=_integer(environment, "FLAMEC_CACHE_SIZE", 2 << 30) or 2 << 30,
        threads=_integer(environment, "FLAMEC_NUM_THREADS", None),
        c_compiler=environment.get("FLAMEC_CC") or environment.get("CC") or None,
        autotune=environment.get("FLAMEC_AUTOTUNE", "off"),
        verify=_flag(environment, "FLAMEC_VERIFY"),
        numerics=environment.get("FLAMEC_NUMERICS", "default"),
    )
    options = replace(options, **changes)
    options = replace(options, cache_folder=Path(options.cache_folder))
    if "reproduction_folder" not in changes:
        chosen = environment.get("FLAMEC_REPRODUCTION_DIR")
        place = Path(chosen) if chosen else options.cache_folder / "reproductions"
        options = replace(options, reproduction_folder=place)
    elif options.reproduction_folder is not None:
        options = replace(options, reproduction_folder=Path(options.reproduction_folder))
    if options.backend not in ("auto", "c", "evaluate"):
        raise ValueError(f"backend must be 'auto', 'c' or 'evaluate', not {options.backend!r}")
    if options.autotune not in ("off", "fast", "max"):
        raise ValueError(f"autotune must be 'off', 'fast' or 'max', not {options.autotune!r}")
    if options.numerics not in ("default", "strict"):
        raise ValueError(f"numerics must be 'default' or 'strict', not {options.numerics!r}")
    if not 0 <= options.memory_budget <= 1:
        raise ValueError(
            f"memory_budget must be a number from 0 to 1, not {options.memory_budget!r}"
        )
    if not set(options.check.split(",")) <= {"", "nan", "inf"}:
        raise ValueError(f"check must be 'nan', 'inf' or 'nan,inf', not {options.check!r}")
    return options


def _flag(environment: Any, name: str) -> bool:
    text = environment.get(name, "0")
    if text not in ("0", "1"):
        raise ValueError(f"{name} must be 0 or 1, not {text!r}")
    return bool(text == "1")


def _integer(environment: Any, name: str, default: int | None) -> int | None:
    text = environment.get(name)
    if text is None:
        return default
    try:
        value = int(text)
    except ValueError:
        raise ValueError(f"{name} must be an integer, not {text!r}") from None
    if value < 1:
        raise ValueError(f"{name} must be at least 1, not {value}")
    return value
