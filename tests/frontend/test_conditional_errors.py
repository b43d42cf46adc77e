"""What ``cond`` and ``while_loop`` refuse, eager and compiled, and what they say then."""

from __future__ import annotations

from typing import Any

import pytest
from control_flow_programs import wrapped

import flamec

BOTH = pytest.mark.parametrize("compiled", [False, True])
X = flamec.ones(3)
EAGER_ERRORS: list[tuple[Any, type[Exception], str]] = [
    (lambda: flamec.cond(1, lambda: X, lambda: X), TypeError, "pred must be a bool or a tensor"),
    (lambda: flamec.cond(X, lambda: X, lambda: X), TypeError, r"one element, it is float32\[3\]"),
    (lambda: flamec.cond(True, 3, lambda: X), TypeError, "true_fn must be a function"),
    (lambda: flamec.cond(True, abs, abs, X), TypeError, "operands must be a tuple, not Tensor"),
    (lambda: flamec.cond(True, lambda x: "y", abs, (X,)), TypeError, "tensors or numbers"),
    (lambda: flamec.while_loop(abs, abs, X), TypeError, "carried_inputs must be a tuple"),
    (lambda: flamec.while_loop(abs, abs, ()), TypeError, "at least one tensor"),
    (lambda: flamec.while_loop(abs, abs, (X,), max_steps=-1), ValueError, "not be negative: -1"),
    (lambda: flamec.while_loop(abs, abs, (X,), max_steps=2.0), TypeError, "not float"),
]  # fmt: skip
LOOP_ERRORS: list[tuple[Any, Any, str]] = [
    (lambda i, h: i < 2, lambda i, h: (i + 1, h[:1]), r"h\['a'\] is float32\[3\] when body_fn g"),
    (lambda i, h: i < 2, lambda i, h: (i + 0.5, h), "i is int64.* and float32.* when body_fn r"),
    (lambda i, h: i < 2, lambda i, h: i + 1, "must return a tuple of the structure that it gets"),
    (lambda i, h: h["a"] < 2, lambda i, h: (i + 1, h), "bool tensor of one element"),
]  # fmt: skip
BRANCH_ERRORS: list[tuple[Any, Any, str]] = [
    (lambda x: x, lambda x: x[:2], r"result is float32\[3\] in true_fn and float32\[2\] in false"),
    (lambda x: {"a": x}, lambda x: {"b": x}, r"return \{'a': ·\} and \{'b': ·\}"),
    (lambda x: (x, 1), lambda x: (x, 1.0), r"result\[1\] is int64.*float32"),
    (lambda x: (x, None), lambda x: (x, x), r"result\[1\] is None in true_fn"),
    (lambda x: x.add_(1), lambda x: x, "changes one of its arguments in place"),
]


@pytest.mark.parametrize(("call", "error", "text"), EAGER_ERRORS)
def test_bad_arguments(call: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text) as raised:
        call()
    assert "test_conditional_errors.py" in str(raised.value)


@BOTH
@pytest.mark.parametrize(("condition", "body", "text"), LOOP_ERRORS)
def test_carried_values_stay_what_they_are(
    compiled: bool, condition: Any, body: Any, text: str
) -> None:
    def changed(i: Any, h: Any) -> Any:
        result = body(i, h["a"])
        return result if not isinstance(result, tuple) else (result[0], {"a": result[1]})

    function = body if "structure" in text or "bool" in text else changed
    with pytest.raises(TypeError, match=text) as raised:
        wrapped(compiled, lambda x: flamec.while_loop(condition, function, (0, {"a": x})))(X)
    assert "test_conditional_errors.py" in str(raised.value)


@pytest.mark.parametrize(("first", "second", "text"), BRANCH_ERRORS)
def test_branches_must_return_the_same(first: Any, second: Any, text: str) -> None:
    with pytest.raises((TypeError, RuntimeError), match=text):
        wrapped(True, lambda x: flamec.cond(x.sum() > 0, first, second, (x,)))(X)


def test_what_a_body_cannot_do_is_said() -> None:
    state = flamec.zeros(3)

    def draws(x: Any) -> Any:
        return flamec.rand(1)[0] > 0.5

    with pytest.raises(RuntimeError, match="cond_fn must not change tensors or draw random"):
        wrapped(True, lambda x: flamec.while_loop(draws, lambda x: (x,), (x,)))(X)
    with pytest.raises(RuntimeError, match="whose memory it also gets as an argument"):
        wrapped(True, lambda x: flamec.cond(x[0] > 0, lambda s: state.add_(s), abs, (state,)))(X)
    with pytest.raises(RuntimeError, match=r"backward\(\) and assignments to .grad are not"):
        leaf = flamec.ones(3, requires_grad=True)
        wrapped(True, lambda x: flamec.cond(x[0] > 0, lambda: (leaf * x).sum().backward(),
                                            lambda: None))(X)  # fmt: skip
    with pytest.raises(flamec.errors.DataDependentError, match=r"flamec\.while_loop"):
        wrapped(True, lambda x: x * 2 if x.sum() > 0 else x)(X)
