"""The primitive operations, one file a family; importing this package registers them all."""

from flamec.ir.ops import (
    assemble,
    binary,
    comparison,
    contraction,
    convolution,
    creation,
    indexing,
    random,
    reduction,
    scan,
    selection,
    sorting,
    transfer,
    unary,
    view,
    windows,
)

__all__ = [
    "assemble",
    "binary",
    "comparison",
    "contraction",
    "convolution",
    "creation",
    "indexing",
    "random",
    "reduction",
    "scan",
    "selection",
    "sorting",
    "transfer",
    "unary",
    "view",
    "windows",
]
