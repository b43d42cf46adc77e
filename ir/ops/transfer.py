"""Transfers: the same elements in the memory of another device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from flamec.ir.op import Attributes, DerivativeContext, Op, OpKind, Types, register
from flamec.ir.ops.checks import check_operand_count
from flamec.ir.types import Device, TensorType

if TYPE_CHECKING:
    from flamec.ir.builder import Builder


def _infer(types: Types, attributes: Attributes) -> TensorType:
    check_operand_count("to_device", types, 1)
    device = attributes["device"]
    if not isinstance(device, Device):
        raise TypeError(f"to_device: the device must be a Device, not {device!r}")
    return TensorType(types[0].shape, types[0].dtype, device)


def _gradient(b: Builder, ctx: DerivativeContext, g: Any) -> tuple[Any]:
    return (b.to_device(g, device=ctx.input_types[0].device),)


to_device = register(
    Op(
        name="to_device",
        kind=OpKind.TRANSFER,
        infer=_infer,
        evaluate=lambda attributes, x: np.array(x),
        derivative=_gradient,
        doc="A copy in the memory of a device.",
    )
)
