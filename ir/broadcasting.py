"""NumPy's broadcasting rule, also over symbolic sizes."""

from __future__ import annotations

from flamec.ir.shape import Dim, SymbolicDim, equal, format_shape, structurally_equal


def broadcast_shapes(*shapes: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """NumPy's broadcasting rule, also over symbols; ValueError names the dimension.

    A symbolic size against 1 gives the symbolic size, which is right for the
    value 1 as well; two different symbolic sizes are asked of the oracle.
    """
    rank = max((len(s) for s in shapes), default=0)
    result: list[Dim] = []
    for axis in range(-rank, 0):
        dim: Dim = 1
        for shape in shapes:
            if -axis > len(shape):
                continue
            size = shape[axis]
            if structurally_equal(size, 1) or structurally_equal(size, dim):
                continue
            if structurally_equal(dim, 1):
                dim = size
            elif equal(dim, size):
                dim = size if isinstance(size, int) else dim
            elif isinstance(size, SymbolicDim) and equal(size, 1):
                continue
            elif isinstance(dim, SymbolicDim) and equal(dim, 1):
                dim = size
            else:
                raise ValueError(
                    f"shapes {' and '.join(format_shape(s) for s in shapes)} do not "
                    f"broadcast: {dim} against {size} at dimension {axis}"
                )
        result.append(dim)
    return tuple(result)
