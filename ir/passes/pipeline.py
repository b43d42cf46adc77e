"""The compiler's table of contents: every pass over graphs, in order.

In: the traced graph, with its derivatives in it already. Out: the graph that code
generation fuses and lowers.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from flamec.ir.graph import Graph
from flamec.ir.passes.absorb_permutations import absorb_permutations
from flamec.ir.passes.autocast import autocast
from flamec.ir.passes.decompose import decompose
from flamec.ir.passes.eliminate_common_subexpressions import eliminate_common_subexpressions
from flamec.ir.passes.eliminate_dead_code import eliminate_dead_code
from flamec.ir.passes.fold_constants import fold_constants
from flamec.ir.passes.forget_derivatives import forget_derivatives
from flamec.ir.passes.lower_convolutions import lower_convolutions
from flamec.ir.passes.manager import Pass, Repeat
from flamec.ir.passes.place import eliminate_transfers
from flamec.ir.passes.recognize_attention import recognize_attention
from flamec.ir.passes.rewrite import Rule
from flamec.ir.passes.round_halves import round_halves
from flamec.ir.passes.simplify import simplify
from flamec.ir.passes.trim_loops import trim_loops


def pipeline(
    decompositions: Mapping[str, Rule] | None = None, strict: bool = False
) -> tuple[Pass | Repeat, ...]:
    """The passes for a backend that wants the operations in ``decompositions`` rewritten.

    ``strict``: elementwise results keep the bits that they have operation by operation. For one
    program: what a pass has settled about nodes is remembered.
    """
    attention = Pass(
        "recognize_attention", recognize_attention, "on a GPU, attention is an operation"
    )
    algebra = partial(simplify, strict=strict, settled=set())
    fold = Pass("fold_constants", partial(fold_constants, settled=set()), "constants are computed")
    once = Pass(
        "eliminate_common_subexpressions",
        eliminate_common_subexpressions,
        "no two nodes compute the same",
    )
    rounding = Pass("round_halves", round_halves, "16-bit floats are rounded after each operation")
    return (
        Pass("forget_derivatives", forget_derivatives, "no value has a derivative of its own"),
        Pass("eliminate_dead_code", eliminate_dead_code, "every node serves a result"),
        Pass("trim_loops", trim_loops, "no loop computes what nobody reads"),
        Pass("eliminate_transfers", eliminate_transfers, "no value changes its device"),
        *(() if strict else (attention,)),
        Pass("autocast", autocast, "no value is cast twice for mixed precision"),
        Pass(
            "decompose",
            partial(decompose, rules=decompositions or {}),
            "the backend lowers every operation",
        ),
        Pass(
            "lower_convolutions",
            lower_convolutions,
            "convolutions are products of windows, channels last",
        ),
        Pass("set_endings_apart", _same, "equal updates of parameters are seen once", divides=True),
        Repeat(
            (
                fold,
                Pass("simplify", algebra, "no operation is without effect"),
                Pass(
                    "absorb_permutations",
                    absorb_permutations,
                    "contractions read arrays as they lie in memory",
                ),
                once,
                Pass("eliminate_dead_code", eliminate_dead_code, "every node serves a result"),
                Pass("trim_loops", trim_loops, "no loop computes what nobody reads"),
            )
        ),
        *((rounding,) if strict else ()),
    )


def _same(graph: Graph) -> Graph:
    return graph
