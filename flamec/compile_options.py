"""The options of ``torch.compile`` in terms of ours."""

from __future__ import annotations

from typing import Any

_MODES: dict[str | None, dict[str, Any]] = {
    None: {},
    "default": {},
    "reduce-overhead": {},
    "max-autotune": {"autotune": "max"},
    "max-autotune-no-cudagraphs": {"autotune": "max"},
}


def own_options(options: dict[str, Any]) -> dict[str, Any]:
    """Options of ``torch.compile`` as ours; ValueError for what has no counterpart."""
    mode = options.pop("mode", None)
    if mode not in _MODES:
        raise ValueError(f"flamec.compile: unknown mode {mode!r}; known: {[*_MODES]}")
    for name in ("options", "disable"):
        if options.pop(name, None):
            raise ValueError(f"flamec.compile has no counterpart of torch.compile's {name}=")
    if options.get("backend", "") in ("inductor", None):
        del options["backend"]
    return {**_MODES[mode], **options}
