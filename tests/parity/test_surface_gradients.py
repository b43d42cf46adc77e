"""Each differentiable function of the list: values, gradients and gradients of gradients, eager
and compiled, against PyTorch; and the method and the in-place form of the same name.

The calls are in ``surface_expressions.txt``. A test fails for a function of the list that has
neither a call there nor a reason not to be differentiated.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from itertools import zip_longest
from typing import Any

import numpy as np
import pytest
from parity_expressions import expressions

import flamec
from flamec.cli import coverage

torch = pytest.importorskip("torch")

CALLS = expressions("surface")
RNG = np.random.default_rng(3)
FLOATS = {
    "x": RNG.standard_normal((3, 4)),
    "y": RNG.standard_normal((3, 4)),
    "p": RNG.uniform(0.4, 2.5, (3, 4)),
    "u": RNG.uniform(-0.8, 0.8, (3, 4)),
    "v": RNG.standard_normal(4),
    "m": RNG.standard_normal((4, 3)),
    "s": RNG.standard_normal((3, 3)) / 2 + 2 * np.eye(3),
    "q": RNG.standard_normal((2, 3, 4)),
    "w": RNG.standard_normal((2, 2, 4, 4)),
}
OTHERS = {
    "i": RNG.integers(0, 3, (3, 4)),
    "j": RNG.integers(0, 3, 5),
    "b": RNG.random((3, 4)) > 0.5,
}

# PyTorch has no second derivative, or it is not defined there
FIRST_ONLY = {"scatter_reduce", "embedding", "index_reduce"}
# PyTorch's Hessian is that of another matrix: its trigamma, its pinv of a random matrix
LOOSE = {
    "mvlgamma": 1e-8,
    "cond": 1e-6,
    "pinverse": 1e-7,
    "pinv": 1e-7,
    "lstsq": 1e-7,
    "corrcoef": 1e-8,
}


def derivatives(package: Any, text: str) -> Callable[..., tuple[Any, ...]]:
    """The value of a call, its gradients, and the gradients of those."""
    names = {n.id for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Name)}
    wanted = [n for n in FLOATS if n in names]
    others = [n for n in OTHERS if n in names]
    function = eval(f"lambda {', '.join([*wanted, *others])}: {text}", {"torch": package})
    first_only = any(f".{name}(" in text for name in FIRST_ONLY)

    def run(*operands: Any) -> tuple[Any, ...]:
        value = function(*operands)
        leaves = operands[: len(wanted)]
        weight = (value.detach() * 0 + 1).cumsum(0) if value.ndim else value.detach() * 0 + 1
        first = package.autograd.grad(
            (value * weight).sum(), leaves, create_graph=True, allow_unused=True
        )
        found = [value, *first]
        parts = [(g**2).sum() for g in first if g is not None and g.requires_grad]
        if parts and not first_only:
            found += package.autograd.grad(sum(parts), leaves, allow_unused=True)
        return tuple(found)

    run.operands = [*wanted, *others]  # type: ignore[attr-defined]
    return run


def operands(package: Any, names: list[str]) -> list[Any]:
    return [
        package.tensor(FLOATS[n], requires_grad=True) if n in FLOATS else package.tensor(OTHERS[n])
        for n in names
    ]


def operands_of(run: Any) -> list[str]:
    """Those that gradients are taken by."""
    return [n for n in run.operands if n in FLOATS]


def name_of(text: str) -> str:
    return text.split("(")[0].rpartition(".")[2]


def compare(text: str, found: tuple[Any, ...]) -> None:
    theirs = derivatives(torch, text)
    expected = theirs(*operands(torch, theirs.operands))  # type: ignore[attr-defined]
    limit = LOOSE.get(name_of(text), 1e-9)
    count = len(operands_of(theirs))
    assert {len(found), len(expected)} <= {1 + count, 1 + 2 * count}
    for position, (a, b) in enumerate(zip_longest(found, expected)):  # no second ones: zeros
        what = f"{text}, result {position}"
        if a is None or b is None:
            assert all(x is None or not x.any() for x in (a, b)), what
            continue
        assert tuple(a.shape) == tuple(b.shape), what
        np.testing.assert_allclose(
            a.numpy(force=True), b.numpy(force=True), rtol=limit, atol=limit, err_msg=what
        )


@pytest.mark.parametrize("text", CALLS)
def test_derivatives(text: str) -> None:
    mine = derivatives(flamec, text)
    compare(text, mine(*operands(flamec, mine.operands)))  # type: ignore[attr-defined]


TOGETHER = 16
VALUE_DEPENDENT = {"masked_select", "lstsq"}  # what they compute follows from values


@pytest.mark.parametrize("start", range(0, len(CALLS), TOGETHER))
def test_derivatives_compiled(start: int) -> None:
    """Several calls in one program, for one compilation."""
    texts = [t for t in CALLS[start : start + TOGETHER] if name_of(t) not in VALUE_DEPENDENT]
    runs = [derivatives(flamec, text) for text in texts]
    inputs = [operands(flamec, run.operands) for run in runs]  # type: ignore[attr-defined]

    def all_of_them(inputs: Any) -> Any:
        return [run(*given) for run, given in zip(runs, inputs, strict=True)]

    for text, found in zip(texts, flamec.compile(all_of_them)(inputs), strict=True):
        compare(text, found)


def test_the_method_is_the_function() -> None:
    """``x.f(...)`` where there is such a method, on the same operands."""
    checked = 0
    for text in CALLS:
        tree = ast.parse(text, mode="eval").body
        if not (
            isinstance(tree, ast.Call)
            and isinstance(tree.func, ast.Attribute)
            and isinstance(tree.func.value, ast.Name)
            and tree.args
            and not isinstance(tree.args[0], (ast.Tuple, ast.Constant, ast.Starred))
        ):
            continue
        name = tree.func.attr
        if not hasattr(flamec.Tensor, name) or not hasattr(torch.Tensor, name):
            continue
        run = derivatives(flamec, text)
        values = operands(flamec, run.operands)  # type: ignore[attr-defined]
        names = dict(zip(run.operands, values, strict=True))  # type: ignore[attr-defined]
        expected = eval(text, {"torch": flamec}, names)
        if name == "where":
            continue  # the method's operand is the second
        method = ast.Call(
            ast.Attribute(tree.args[0], name, ast.Load()), tree.args[1:], tree.keywords
        )
        code = compile(ast.fix_missing_locations(ast.Expression(method)), "<method>", "eval")
        found = eval(code, {"torch": flamec}, names)
        for a, b in zip(
            found if isinstance(found, tuple) else (found,),
            expected if isinstance(expected, tuple) else (expected,),
            strict=True,
        ):
            np.testing.assert_array_equal(a.detach().numpy(), b.detach().numpy(), err_msg=text)
        in_place = getattr(flamec.Tensor, f"{name}_", None)
        names["torch"] = flamec
        target = eval(compile(ast.Expression(tree.args[0]), "<operand>", "eval"), names)
        if in_place is not None and not isinstance(expected, tuple):
            with flamec.no_grad():
                copy = target.detach().clone()
                rest = [eval(compile(ast.Expression(a), "<o>", "eval"), names)
                        for a in tree.args[1:]]  # fmt: skip
                options = {
                    k.arg: eval(compile(ast.Expression(k.value), "<o>", "eval"), names)
                    for k in tree.keywords
                }
                if copy.shape == expected.shape and copy.dtype is expected.dtype:
                    assert in_place(copy, *rest, **options) is copy
                    np.testing.assert_array_equal(copy.numpy(), expected.detach().numpy(), text)
        checked += 1
    assert checked > 180


# functions of the package and of linalg without a derivative worth testing here
# integers, bools, and what is constant between jumps
JUMPING = """
sign signbit sgn floor ceil round trunc fix floor_divide heaviside nextafter copysign isnan
isinf isfinite isposinf isneginf isreal isclose allclose equal eq ne not_equal lt less le
less_equal gt greater ge greater_equal logical_and logical_or logical_xor logical_not
bitwise_and bitwise_or bitwise_xor bitwise_not bitwise_left_shift bitwise_right_shift gcd lcm
argmax argmin all any count_nonzero histc histogram bincount argsort searchsorted bucketize unique
unique_consecutive isin nonzero argwhere matrix_rank is_complex is_floating_point is_nonzero
is_same_size is_tensor result_type promote_types can_cast broadcast_shapes numel
"""
# new tensors
NEW = """
tensor as_tensor asarray from_numpy scalar_tensor zeros ones full empty eye arange linspace
logspace zeros_like ones_like full_like empty_like rand_like randn_like randint_like
tril_indices triu_indices rand randn randint randperm normal bernoulli multinomial empty_strided
empty_permuted range from_dlpack frombuffer bartlett_window blackman_window hamming_window
hann_window kaiser_window
"""
# random ones, which are compared in tests of their own
RANDOM = """
dropout alpha_dropout feature_alpha_dropout rrelu poisson binomial svd_lowrank pca_lowrank
"""
# derivatives in tests of their own: PyTorch's are not exact, or there are none
ELSEWHERE = """
vander as_strided_scatter lgamma digamma sinc cdist conj_physical real qr svd lu_solve lu_unpack
det LinAlgError geqrf fake_quantize_per_channel_affine fake_quantize_per_tensor_affine
"""
CONSTANT = {*JUMPING.split(), *NEW.split(), *RANDOM.split(), *ELSEWHERE.split()}


def test_every_function_has_a_call() -> None:
    called = {
        node.attr
        for text in CALLS
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute)
    }
    families = ("creation", "elementwise", "reductions and scans", "sorting and searching",
                "shape", "indexing", "matrix", "functional")  # fmt: skip
    missing = [
        str(n)
        for family in families
        for n in coverage.families()[family]
        if n.place in ("flamec", "linalg")
        and n.name not in called
        and n.name not in CONSTANT
        and not n.name.endswith("_")
    ]
    assert not missing, missing
