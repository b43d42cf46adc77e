"""Run plans on a GPU from NumPy arrays, as the tests of generated kernels need it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from flamec.ir.plan import ExecutionPlan
from flamec.ir.shape import evaluate_shape
from flamec.runtime.cuda.device import CudaDevice


def run_on(
    device: CudaDevice, plan: ExecutionPlan, arrays: Sequence[np.ndarray], sizes: Mapping[str, int]
) -> tuple[list[np.ndarray], dict[int, np.ndarray]]:
    """Outputs and updated inputs of one call."""
    bound = device.load(plan).bind(tuple(sizes[s] for s in plan.symbols))
    held = []
    for buffer, array in zip(plan.inputs, arrays, strict=True):
        allocation, address = device.empty(max(1, array.nbytes))
        held.append(allocation)
        if array.nbytes:
            device.write(address, np.ascontiguousarray(array))
        bound.addresses[buffer] = address
    outputs = []
    for output in plan.outputs:
        shape = evaluate_shape(output.type.shape, dict(sizes))
        array = np.zeros(shape, output.type.dtype.numpy)
        allocation, address = device.empty(max(1, array.nbytes))
        held.append(allocation)
        bound.addresses[output.buffer] = address
        outputs.append(array)
    bound()
    for output, array in zip(plan.outputs, outputs, strict=True):
        if array.nbytes:
            device.read(array, bound.addresses[output.buffer])
    updates = {}
    for position in plan.updated:
        array = np.array(arrays[position], copy=True, order="C")
        device.read(array, bound.addresses[plan.inputs[position]])
        updates[position] = array
    device.synchronize()
    return outputs, updates
