"""Rows of attention: the oracle is the definition, one row of one head after the other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from op_row import FLOATS, Draw, ErrorInput, Row, Sample, tensor

from flamec.ir.types import DType, bool_, float32, int32

PLAIN = (0, 1, 2)
TURNED = (1, 0, 2)


def _attributes(
    count: int, lower: Any = None, upper: Any = None, zero_rows: bool = False, order: Any = PLAIN
) -> dict[str, Any]:
    return {
        "scale": 0.7,
        "lower": lower,
        "upper": upper,
        "zero_rows": zero_rows,
        "orders": (order,) * count,
    }


def _forward_samples(draw: Draw) -> list[Sample]:
    def operands(batch: int, rows: int, columns: int, depth: int, width: int) -> Any:
        return draw(batch, rows, depth), draw(batch, columns, depth), draw(batch, columns, width)

    hidden = np.ones((2, 3, 4), np.bool_)
    hidden[0, 1], hidden[1, :, 2] = False, False
    added = draw(2, 3, 4)
    minus = np.zeros((2, 3, 4), np.float32)
    minus[:, :, 1] = -np.inf
    return [
        Sample(operands(2, 3, 4, 5, 2), _attributes(1)),
        Sample(operands(2, 4, 4, 3, 3), _attributes(1, upper=0)),
        Sample(operands(1, 5, 4, 2, 3), _attributes(1, lower=-1, upper=1, order=TURNED)),
        Sample(operands(1, 5, 2, 2, 3), _attributes(1, upper=-2, zero_rows=True), finite=False),
        Sample(operands(1, 3, 2, 2, 3), _attributes(1, upper=-2), finite=False),
        Sample((*operands(2, 3, 4, 2, 2), hidden), _attributes(1, zero_rows=True), finite=False),
        Sample((*operands(2, 3, 4, 2, 2), added), _attributes(1, upper=2)),
        Sample((*operands(2, 3, 4, 2, 2), minus), _attributes(1), finite=False),
        Sample(operands(0, 3, 4, 2, 2), _attributes(1)),
        Sample(operands(2, 0, 4, 2, 2), _attributes(1)),
    ]


def _backward_samples(draw: Draw) -> list[Sample]:
    """The logarithms are a bit off: they are operands like others."""
    samples = []
    for sample in _forward_samples(draw):
        q, k, v, *mask = sample.arrays
        wide = np.float64 if draw.dtype.itemsize == 8 else np.float32
        order = sample.attributes["orders"][0]
        differentiable = sample.finite and not (mask and mask[0].dtype == np.bool_)
        _, total = _forward(sample, *(a.astype(np.float64) for a in (q, k, v, *mask)))
        total = (total + draw(*q.shape[:2], domain=(0.0, 0.5))).astype(wide)
        delta = draw(*q.shape[:2]).astype(wide)
        g = draw(*q.shape[:2], v.shape[-1])
        attributes = {**sample.attributes, "orders": (order,) * 3}
        samples.append(Sample((q, k, v, *mask, g, total, delta), attributes, differentiable))
    return samples


def _scores(sample: Sample, q: Any, k: Any, mask: Any) -> Iterator[tuple[int, int, list[float]]]:
    """For each batch and row the scores of all columns."""
    lower, upper = sample.attributes["lower"], sample.attributes["upper"]
    for b in range(q.shape[0]):
        for i in range(q.shape[1]):
            row = []
            for j in range(k.shape[1]):
                s = 0.7 * float(sum(x * y for x, y in zip(q[b, i], k[b, j], strict=True)))
                out = (lower is not None and j - i < lower) or (upper is not None and j - i > upper)
                if mask is not None:
                    kind = sample.arrays[3].dtype
                    out = out or (kind == np.bool_ and not mask[b, i, j])
                    s += 0.0 if kind == np.bool_ else float(mask[b, i, j])
                row.append(-np.inf if out else s)
            yield b, i, row


def _forward(sample: Sample, q: Any, k: Any, v: Any, mask: Any = None) -> tuple[Any, Any]:
    result = np.zeros((*q.shape[:2], v.shape[2]))
    logarithm = np.zeros(q.shape[:2])
    for b, i, row in _scores(sample, q, k, mask):
        powers = np.exp(row)
        total = powers.sum()
        empty = total == 0
        logarithm[b, i] = -np.inf if empty else np.log(total)
        result[b, i] = powers @ v[b] / total if not empty else np.nan
        if empty and sample.attributes["zero_rows"]:
            result[b, i] = 0
        elif empty:
            logarithm[b, i] = np.nan
    return result.transpose(sample.attributes["orders"][0]), logarithm


def _backward(sample: Sample, q: Any, k: Any, v: Any, *rest: Any) -> tuple[Any, ...]:
    *masks, g, total, delta = rest
    of_q, of_k, of_v = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    for b, i, row in _scores(sample, q, k, masks[0] if masks else None):
        empty = np.isneginf(total[b, i]) and sample.attributes["zero_rows"]
        for j, s in enumerate(row):
            weight = np.exp(s - (0 if empty else total[b, i]))
            if np.isneginf(s) and not (masks and np.isneginf(masks[0][b, i, j])):
                weight = 0.0
            inner = 0.7 * weight * (g[b, i] @ v[b, j] - delta[b, i])
            of_q[b, i] += inner * k[b, j]
            of_k[b, j] += inner * q[b, i]
            of_v[b, j] += weight * g[b, i]
    orders = sample.attributes["orders"]
    return tuple(x.transpose(o) for x, o in zip((of_q, of_k, of_v), orders, strict=True))


def _types(B: Any, dtype: DType, backward: bool) -> tuple[Any, dict[str, Any]]:
    q, k, v = (tensor(*s, dtype=dtype) for s in ((2, B, 3), (2, 4, 3), (2, 4, 5)))
    if not backward:
        return (q, k, v, tensor(2, B, 4, dtype=dtype)), _attributes(1, upper=1)
    row = tensor(2, B, dtype=dtype.compute)
    return (q, k, v, tensor(2, B, 5, dtype=dtype), row, row), _attributes(3, upper=1)


Q, K, V = (tensor(2, n, 3, dtype=float32) for n in (4, 5, 5))
ROW = tensor(2, 4, dtype=float32)
FORWARD_ERRORS = (
    ErrorInput((Q, K), _attributes(1), TypeError, "3 or 4 operands"),
    ErrorInput((Q, K, Q), _attributes(1), ValueError, "do not match"),
    ErrorInput((Q, K, V, tensor(2, 5, 4, dtype=bool_)), _attributes(1), ValueError, "do not match"),
    ErrorInput((Q, K, V, tensor(2, 4, 5, dtype=int32)), _attributes(1), TypeError, "mask"),
    ErrorInput((Q, K, V), _attributes(1, order=(0, 1)), ValueError, "permutations"),
    ErrorInput((Q, K, V), {**_attributes(1), "scale": 1}, TypeError, "scale"),
)
BACKWARD_ERRORS = (
    ErrorInput((Q, K, V, Q, ROW), _attributes(3), TypeError, "6 or 7 operands"),
    ErrorInput((Q, K, V, K, ROW, ROW), _attributes(3), ValueError, "the gradient"),
    ErrorInput((Q, K, V, Q, Q, ROW), _attributes(3), ValueError, "the logarithms"),
    ErrorInput((Q, K, V, Q, ROW, ROW), _attributes(1), ValueError, "permutations"),
)

ATTENTION_ROWS = [
    Row(
        "attention",
        FLOATS,
        _forward_samples,
        _forward,
        ulps=16,
        scale=8.0,
        gradient=(0, 1, 2, 3),
        symbolic=lambda B, dtype: _types(B, dtype, backward=False),
        errors=FORWARD_ERRORS,
    ),
    Row(
        "attention_backward",
        FLOATS,
        _backward_samples,
        _backward,
        ulps=16,
        scale=32.0,
        gradient=(0, 1, 2, 3, 4, 5),
        symbolic=lambda B, dtype: _types(B, dtype, backward=True),
        errors=BACKWARD_ERRORS,
    ),
]
