"""Execution plans around hand-written C, for tests of the runtime."""

from __future__ import annotations

from collections.abc import Sequence

from flamec.ir.plan import Buffer, ExecutionPlan, OutputSpec, Step
from flamec.ir.shape import Dim, symbols_of
from flamec.ir.types import DType, TensorType, float32

PRELUDE = '#define FLAMEC_NATIVE_LANES\n#include "flamec_vector.h"\n'


def program_plan(
    source: str,
    inputs: Sequence[tuple[DType, Dim]] = (),
    outputs: Sequence[tuple[DType, Dim]] = (),
    temporaries: Sequence[Dim] = (),
    *,
    errors: tuple[str, ...] = (),
    scratch: Dim = 0,
    needs_blas: bool = False,
) -> ExecutionPlan:
    """One step that reads all inputs and writes all outputs; buffers in the order given.

    ``temporaries`` are numbers of float32 elements, all alive at once.
    """
    described = [("input", t, n) for t, n in inputs] + [("output", t, n) for t, n in outputs]
    described += [("temporary", float32, n) for n in temporaries]
    buffers = tuple(Buffer(f"b{i}", kind, t, n) for i, (kind, t, n) in enumerate(described))
    first, last = len(inputs), len(inputs) + len(outputs)
    everything = tuple(range(len(buffers)))
    symbols = sorted({s for b in buffers for s in symbols_of(b.elements)} | symbols_of(scratch))
    return ExecutionPlan(
        buffers=buffers,
        steps=(Step("kernel", "pointwise", everything[:first], everything[first:], 0, 0),),
        inputs=everything[:first],
        input_types=tuple(TensorType((n,), t) for t, n in inputs),
        outputs=tuple(
            OutputSpec(i, TensorType((buffers[i].elements,), buffers[i].dtype))
            for i in range(first, last)
        ),
        updated=(),
        symbols=tuple(symbols),
        source=PRELUDE + source,
        errors=errors,
        scratch=scratch,
        notes={"needs_blas": needs_blas},
    )
