"""The code generator's options for a GPU that need not be there.

In: compiler options and a target such as ``"sm_90"``. Out: what a program on such a GPU would be
made with, float32's precision as it is set now included.
"""

from __future__ import annotations

from dataclasses import replace

from flamec.codegen.options import CodegenOptions
from flamec.config import CompileOptions
from flamec.prepared import options_of_code
from flamec.state import process


def options_for(target: str, options: CompileOptions) -> CodegenOptions:
    """How code for the GPU is generated."""
    return replace(
        options_of_code(options),
        target=target,
        float32_products=process.float32_precision.products,
        float32_convolutions=process.float32_precision.convolutions,
    )
