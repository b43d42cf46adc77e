"""An operation of another kind that the host computes: a declaration.

``host(function, arguments)`` is the operation named ``function`` by its NumPy meaning. A back end
uses it for functions whose bits must be NumPy's (``passes/leave_to_host.py``); it stands in no
traced graph.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from flamec.ir import batching
from flamec.ir.op import Attributes, Op, OpKind, Types, lookup, register


def arguments_text(attributes: Attributes) -> str:
    """Attributes (numbers, text, tuples of them) as the text that ``host`` takes.

    TypeError for others.
    """
    return json.dumps(dict(attributes), sort_keys=True)


@lru_cache(maxsize=1024)
def _arguments(text: str) -> Mapping[str, Any]:
    return {n: tuple(v) if isinstance(v, list) else v for n, v in json.loads(text).items()}


def _infer(types: Types, attributes: Attributes) -> Types:
    op = lookup(attributes["function"])
    try:
        return op.infer_types(types, _arguments(attributes["arguments"]))
    except (TypeError, ValueError) as error:
        raise type(error)(f"host: {error}") from None


def _evaluate(attributes: Attributes, *arrays: np.ndarray) -> Any:
    op = lookup(attributes["function"])
    return op.evaluate(_arguments(attributes["arguments"]), *arrays)


def _batch(b: Any, size: Any, op: Op, operands: Any, attributes: Attributes) -> Any:
    """By the rule of the operation itself, by whichever back end."""
    inner = lookup(attributes["function"])
    return batching.rule_of(inner)(b, size, inner, operands, _arguments(attributes["arguments"]))


register(
    Op(
        name="host",
        kind=OpKind.HOST,
        infer=_infer,
        evaluate=_evaluate,
        expensive=True,
        batch=_batch,
        doc="The operation `function` with the attributes in the JSON text `arguments`, by NumPy.",
    )
)
