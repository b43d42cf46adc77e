"""The PyTorch version of a function, where the user's file has one.

Convention: ``torch_NAME`` is the same function written with torch; ``torch_inputs_NAME()``
or ``torch_inputs()`` gives its arguments, else the example arguments are converted.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np

from flamec.cli.example_inputs import Example, as_example
from flamec.cli.target import Target, user_code
from flamec.structures import flatten, unflatten
from flamec.tensor import Tensor


def find_twin(target: Target, example: Example) -> tuple[Callable[[], Any] | None, str]:
    """A call of the twin, and a note on why there is none."""
    suffix = target.name.replace(".", "_")
    function = getattr(target.module, f"torch_{suffix}", None)
    if function is None:
        return None, f"no torch_{suffix} in {target.module.__name__}"
    if importlib.util.find_spec("torch") is None:
        return None, "torch is not installed"
    inputs = getattr(target.module, f"torch_inputs_{suffix}", None) or getattr(
        target.module, "torch_inputs", None
    )
    with user_code("preparing the inputs of the torch twin"):
        given = as_example(inputs(), "torch_inputs()") if inputs else _convert(example)
    return lambda: function(*given.args, **given.kwargs), ""


def _convert(example: Example) -> Example:
    torch: Any = importlib.import_module("torch")
    leaves, structure = flatten((example.args, example.kwargs))
    converted = [_tensor(torch, leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    args, kwargs = unflatten(structure, iter(converted))
    return Example(args, kwargs, example.origin)


def _tensor(torch: Any, tensor: Tensor) -> Any:
    array = tensor._array
    assert array is not None
    name = tensor.dtype.name
    if name == "bfloat16":
        result = torch.from_numpy(array.astype(np.float32)).to(torch.bfloat16)
    else:
        result = torch.from_numpy(np.array(array))
    return result.requires_grad_(tensor._requires_grad)
