"""The copy between two strided arrays, as a plan of its own: no graph can say such strides.

In: the number of dimensions and the size of an element. Out: a plan with one launch whose
symbols are the sizes ``n0`` …, and for target and source an offset and strides ``t``, ``t0`` …
and ``s``, ``s0`` …, all in elements.
"""

from __future__ import annotations

from flamec.codegen.triton.rendering import module, render
from flamec.ir.plan import Argument, Buffer, ExecutionPlan, KernelSource, Launch, OutputSpec, Step
from flamec.ir.shape import Dim, SymbolicDim, product
from flamec.ir.types import Device, DType, TensorType

_BLOCK = 1024
_NAME = "flamec_copy_strided"


def strided_copy_plan(rank: int, dtype: DType, device: Device) -> ExecutionPlan:
    """``rank`` >= 1; elements are moved as integers of ``dtype``, so NaNs keep their bits."""
    sizes = [f"n{axis}" for axis in range(rank)]
    strides = [f"{array}{axis}" for array in "ts" for axis in range(rank)]
    symbols = (*sizes, *strides)
    count: Dim = product(SymbolicDim.symbol(name) for name in sizes)
    text = render(
        "strided_copy.py.j2",
        {"name": _NAME, "arguments": ", ".join(symbols), "axes": range(rank), "block": _BLOCK},
    )
    pointer = f"*i{8 * dtype.itemsize}"
    parameters = (("target", pointer), ("source", pointer), *((name, "i64") for name in symbols))
    source = KernelSource(module(text), _NAME, parameters, options={"num_warps": 4})
    numbers = tuple(Argument(value=SymbolicDim.symbol(name)) for name in symbols)
    launch = Launch(0, ((count + _BLOCK - 1) // _BLOCK, 1, 1), (Argument(1), Argument(0), *numbers))
    type = TensorType((count,), dtype, device)
    nbytes = count * dtype.itemsize
    return ExecutionPlan(
        buffers=(Buffer("source", "input", dtype, count), Buffer("target", "output", dtype, count)),
        steps=(Step("copy_strided", "copy", (0,), (1,), nbytes, nbytes, operations=("copy",)),),
        inputs=(0,),
        input_types=(type,),
        outputs=(OutputSpec(1, type),),
        updated=(),
        symbols=symbols,
        source=source.text,
        language="triton",
        kernels=(source,),
        actions=(launch,),
    )
