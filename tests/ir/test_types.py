"""Types of values as keys of caches."""

from __future__ import annotations

import threading

import pytest

from flamec.ir.op import lookup
from flamec.ir.shape import SymbolicDim
from flamec.ir.types import Device, TensorType, float32, int64


def test_numbers_stand_for_types() -> None:
    size = SymbolicDim.symbol("n")
    types = [
        TensorType((), float32),
        TensorType((2, 3), float32),
        TensorType((3, 2), float32),
        TensorType((2, 3), int64),
        TensorType((2, 3), float32, Device("cuda", 0)),
        TensorType((2, 3), float32, Device("cuda", 1)),
        TensorType((size, 3), float32),
    ]
    numbers = [type.number for type in types]
    assert len(set(numbers)) == len(types)
    assert min(numbers) > 1  # beside True and False in keys
    again = [TensorType(t.shape, t.dtype, t.device) for t in types]
    assert [type.number for type in again] == numbers


def test_a_number_is_not_copied_to_another_process() -> None:
    code, arguments = TensorType((2,), float32).__reduce__()
    made = code(*arguments)
    assert made == TensorType((2,), float32) and not made._number


def test_threads_give_a_type_one_number() -> None:
    shapes = [(7, n) for n in range(200)]
    found: list[list[int]] = []

    def number_all() -> None:
        found.append([TensorType(shape, float32).number for shape in shapes])

    threads = [threading.Thread(target=number_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(numbers == found[0] for numbers in found) and len(set(found[0])) == len(shapes)


def test_types_are_inferred_once_for_operands_without_symbols() -> None:
    """With symbols each time, because a size that is asked about becomes a guard."""
    add, size = lookup("add"), SymbolicDim.symbol("n")
    for shape, once in (((2, 5), True), ((size, 5), False)):
        given = [(TensorType(shape, float32), TensorType((5,), float32)) for _ in range(2)]
        (first,), (second,) = (add.infer_types(types, {}) for types in given)
        assert first == second == TensorType(shape, float32)
        assert (first is second) is once
    with pytest.raises(TypeError):
        add.infer_types((TensorType((2, 5), float32), TensorType((5,), int64)), {})
