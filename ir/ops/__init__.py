"""The primitive operations, one file a family; importing this package registers them all."""

from flamec.ir.ops import (
    assemble,
    contraction,
    creation,
    indexing,
    random,
    reduction,
    scan,
    view,
)

__all__ = ["assemble", "contraction", "creation", "indexing", "random", "reduction", "scan", "view"]
