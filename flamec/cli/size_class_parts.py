"""What a program over symbolic sizes is on a GPU for the sizes of the example.

In: an ``Inspection`` and a target. Out: the same with two programs for each that is over symbolic
sizes: the one for the example's class of sizes (``flamec.size_classes``), which a call runs, and
the one for all sizes. Nothing is loaded and no GPU is needed.
"""

from __future__ import annotations

from dataclasses import replace

from flamec.cli.stages import Inspection
from flamec.ir.bodies import symbols_in
from flamec.prepared import Prepared, graph_device, options_for_gpu
from flamec.sized_runner import SizedProgram, class_of, element_counts, sized_options

ALL_SIZES = "all sizes"


def is_on_gpu(inspection: Inspection) -> bool:
    """Whether the function's tensors are on a GPU."""
    return any(graph_device(prepared.graph).type == "cuda" for _, prepared in inspection.parts)


def with_size_classes(inspection: Inspection, target: str) -> Inspection:
    """``target``: the GPU, or "c": the one that the function's tensors are on."""
    if inspection.sizes is not None:
        return inspection
    parts: list[tuple[str, Prepared]] = []
    bindings = dict(inspection.bindings)
    for title, prepared in inspection.parts:
        symbols = tuple(symbols_in(prepared.graph))
        if not symbols:
            parts.append((title, prepared))
            continue
        sizes = [bindings[s] for s in symbols]
        known = class_of(symbols, element_counts(prepared.graph, None), sizes)
        general = prepared.code_options
        if target != "c":
            general = options_for_gpu(target, prepared.options)
        options = sized_options(general, known, symbols)
        program = SizedProgram.of(prepared, known, symbols, options)
        bindings.update(zip(known.symbols(symbols), known.values(sizes), strict=True))
        for words, part in ((known.text(symbols), program), (ALL_SIZES, prepared)):
            parts.append((f"{title}, {words}" if title else words, part))
    return replace(inspection, parts=tuple(parts), sizes=bindings)
