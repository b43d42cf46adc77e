"""Exported programs whose numbers and sizes vary as ``dynamic`` says; calls that are refused."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flamec
from flamec.config import default_options
from flamec.deployment.archive import PROGRAM, Archive, write_archive
from flamec.deployment.exported import ExportedProgram
from flamec.errors import CompileError
from flamec.saving.errors import FileFormatError

Dim = flamec.Dim
T = flamec.Tensor


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture
def exported(tmp_path: Path) -> Callable[..., ExportedProgram]:
    def export(function: Callable[..., Any], arguments: Any, **options: Any) -> ExportedProgram:
        flamec.export(function, arguments, tmp_path / "f", **options)
        program: ExportedProgram = flamec.load(tmp_path / "f")
        return program

    return export


def decode_step(x: T, cache: T, position: int, scale: float) -> tuple[T, T, int]:
    """Attention of one token over a cache of keys, in which it is put at a position."""
    cache = cache.clone()
    cache[:, position] = x
    scores = (cache[:, : position + 1] * x[:, None]).sum(-1) * (scale / math.sqrt(x.shape[1]))
    return scores.softmax(-1), cache, position + 1


def test_numbers_are_computed_of_sizes(exported: Callable[..., ExportedProgram]) -> None:
    def function(x):
        n = len(x)
        return x[: int(n * 0.5)] * math.sqrt(n) * np.log1p(n), x / n**0.5, math.isqrt(n)

    program = exported(function, (numbers(6),), dynamic={"x": {0: "n"}})
    for n in (0, 1, 9, 30):
        found, wanted = program(numbers(n)), function(flamec.from_numpy(numbers(n)))
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(a, b if isinstance(b, int) else b.numpy())


def test_a_cache_is_written_at_any_position(exported: Callable[..., ExportedProgram]) -> None:
    batch = {0: Dim("batch", max=64)}
    program = exported(
        decode_step,
        (numbers(2, 4), numbers(2, 16, 4), 3, 2.0),
        dynamic={"x": batch, "cache": batch, "position": "position", "scale": "scale"},
    )
    assert repr(program) == (
        "<exported decode_step(x: float32[batch, 4], cache: float32[batch, 16, 4], position: int, "
        "scale: float) on cpu>"
    )
    for size in (0, 1, 5):
        x, cache = numbers(size, 4, seed=1), numbers(size, 16, 4, seed=2)
        for position, scale in ((0, 1.0), (1, -2.5), (15, 0.5), (np.int64(7), np.float64(3))):
            scores, new, following = program(x, cache, position, scale)
            wanted = cache.copy()
            wanted[:, position] = x
            logits = np.einsum("bld,bd->bl", wanted[:, : position + 1], x) * (scale / 2)
            weights = np.exp(logits - logits.max(1, keepdims=True))
            np.testing.assert_allclose(scores, weights / weights.sum(1, keepdims=True), 2e-6, 1e-6)
            np.testing.assert_array_equal(new, wanted)
            assert following == position + 1 and type(following) is int
    x, cache = numbers(2, 4), numbers(2, 16, 4)
    for position in (16, -17):
        message = rf"calls with \(-16 <= position < 16\); here batch = 2, position = {position}"
        with pytest.raises(ValueError, match=message):
            program(x, cache, position, 1.0)
    for wrong, message in (
        ((3.0, 1.0), "position must be an int, not float"),
        ((True, 1.0), "position must be an int, not bool"),
        ((3, 1), "scale must be a float, not int"),
    ):
        with pytest.raises(TypeError, match=message):
            program(x, cache, *wrong)
    with pytest.raises(ValueError, match="batch, the size of axis 0, is 65; it must be at most 64"):
        program(numbers(65, 4), numbers(65, 16, 4), 0, 1.0)
    with pytest.raises(ValueError, match=r"cache has shape .*\[batch, 16, 4\] with batch = 2"):
        program(x, cache[:1], 0, 1.0)


def test_numbers_cut_repeat_and_decide(exported: Callable[..., ExportedProgram]) -> None:
    def several(x: T, options: dict[str, Any]) -> Any:
        keep, times = options["keep"], options["steps"][0]
        head = x[:keep] if keep < 100 else x
        return flamec.fori_loop(0, times, lambda i, v: v * 2 + i, head), head.shape[0], keep // 2

    program = exported(
        several,
        (numbers(9, 3), {"keep": 4, "steps": [2, True]}),
        dynamic={"x": [0], "options": {"keep": Dim("keep", min=-50), "steps": ["times", None]}},
    )
    for size in (0, 1, 7):
        x = numbers(size, 3)
        for keep, times in ((0, 1), (1, 0), (5, 3), (30, 2), (-1, 4), (-9, 1)):
            wanted = x[:keep]
            for i in range(times):
                wanted = wanted * 2 + i
            found, count, half = program(x, {"keep": keep, "steps": [times, True]})
            np.testing.assert_allclose(found, wanted, 1e-6)
            assert (count, half) == (len(wanted), keep // 2)
    x = numbers(7, 3)
    with pytest.raises(ValueError, match=r"calls with \(options < \(?100\)?\); here"):
        program(x, {"keep": 100, "steps": [1, True]})
    with pytest.raises(ValueError, match="is -51; it must be at least -50"):
        program(x, {"keep": -51, "steps": [1, True]})
    with pytest.raises(ValueError, match="was True at export, now it is False"):
        program(x, {"keep": 1, "steps": [1, False]})
    with pytest.raises(ValueError, match="does not fit int64"):
        program(x, {"keep": 1, "steps": [2**63, True]})


def test_sizes_keep_to_bounds_and_divisors(exported: Callable[..., ExportedProgram]) -> None:
    def grouped(x: T) -> T:
        assert x.shape[0] % 8 == 0 and 8 <= x.shape[0] < 100  # decided by what is declared
        return x.reshape(-1, 8, 3).sum(1)

    rows = Dim("rows", min=8, max=64, multiple_of=8)
    program = exported(grouped, (numbers(8, 3),), dynamic={"x": {0: rows}})
    assert "float32[rows, 3]" in repr(program)
    for size in (8, 16, 64):
        x = numbers(size, 3)
        np.testing.assert_allclose(program(x), x.reshape(-1, 8, 3).sum(1), 1e-5, 1e-6)
    for size, message in ((0, "at least 8"), (72, "at most 64"), (12, "a multiple of 8")):
        with pytest.raises(ValueError, match=f"rows, the size of axis 0, is {size}; .*{message}"):
            program(numbers(size, 3))


def test_names_that_symbols_have_are_the_users(exported: Callable[..., ExportedProgram]) -> None:
    def least(x: T, y: T) -> T:
        count = x.shape[0] if x.shape[0] < y.shape[0] else y.shape[0]
        return x[:count] + y[:count]

    dynamic = {"x": {0: Dim("s1", multiple_of=4)}, "y": {0: "s0"}}
    program = exported(least, (numbers(8), numbers(9)), dynamic=dynamic)
    assert "x: float32[s1], y: float32[s0]" in repr(program)
    with pytest.raises(ValueError, match="for sizes with s1 < s0; here s1 = 8, s0 = 5"):
        program(numbers(8), numbers(5))
    program = exported(lambda x: x * 2, (numbers(8),), dynamic={0: {0: Dim("s7", multiple_of=2)}})
    assert "x: float32[s7]" in repr(program)


def test_what_cannot_vary_is_refused_when_exporting(exported: Callable[..., Any]) -> None:
    def unrolled(x: T, n: int) -> T:
        for i in range(n):
            x = x + i
        return x

    x = numbers(3)
    with pytest.raises(CompileError, match=r"n = 4, and Python needs that value \(at .*fori_loop"):
        exported(unrolled, (x, 4), dynamic={"n": "n"})
    refused: list[tuple[Any, str]] = [
        ({"x": "rows"}, "dynamic names no axes of x, a tensor, but 'rows'"),
        ({"n": [0]}, r"n is a number; dynamic gives it a name or a flamec.Dim, not \[0\]"),
        ({"n": Dim("n", min=5)}, "n is 4 in the example, not at least 5"),
        ({"x": {0: Dim("rows", multiple_of=2)}}, "axis 0 of x is 3 in the example, not a multiple"),
        ({"x": {0: "n"}, "n": "n"}, "'n' is the name of n and of something else"),
    ]
    for dynamic, message in refused:
        with pytest.raises(ValueError, match=message):
            exported(lambda x, n: x * n, (x, 4), dynamic=dynamic)
    with pytest.raises(ValueError, match="f is a float, of which a Dim says nothing"):
        exported(lambda x, f: x * f, (x, 0.5), dynamic={"f": Dim("f")})
    with pytest.raises(ValueError, match="flag, which is a bool"):
        exported(lambda x, flag: x, (x, True), dynamic={"flag": "flag"})
    with pytest.raises(ValueError, match="sizes named 'n' are 3 and 2 in the examples"):
        exported(lambda x, y: x, (x, numbers(2)), dynamic={"x": {0: "n"}, "y": {0: "n"}})
    with pytest.raises(ValueError, match=r"xs is a list of 0, 1; dynamic says of it \{2"):
        exported(lambda xs: xs[0], ([x, x],), dynamic={"xs": {2: [0]}})
    with pytest.raises(ValueError, match="no number is at least 3 and at most 2"):
        Dim("n", min=3, max=2)


def test_examples_that_the_program_would_refuse(exported: Callable[..., Any]) -> None:
    """Small sizes are traced as larger ones, by which a function may decide otherwise."""

    def least(x: T, y: T) -> T:
        count = x.shape[0] if x.shape[0] < y.shape[0] else y.shape[0]
        return x[:count] + y[:count]

    def alone(x: T) -> T:
        return x * 2 if x.shape[0] == 1 else x + 1

    def before(x: T, n: int) -> T:
        return x[:n] if n < x.shape[0] else x + n

    def rolled(x: T, n: int) -> T:
        return flamec.roll(x, n - x.shape[0])

    fours = Dim("rows", multiple_of=4)
    for function, arguments, dynamic, sizes in (
        (least, (numbers(4), numbers(9)), {"x": {0: fours}, "y": {0: "n"}}, "rows = 4, n = 9"),
        (alone, (numbers(1),), {"x": {0: "rows"}}, "rows = 1"),
        (before, (numbers(4), 5), {"x": {0: fours}, "n": "n"}, "rows = 4"),
    ):
        message = f"decides something by sizes .at .*py:.* examples, {sizes}: .* give such examples"
        with pytest.raises(ValueError, match=message):
            exported(function, arguments, dynamic=dynamic)
    program = exported(least, (numbers(8), numbers(9)), dynamic={"x": {0: fours}, "y": {0: "n"}})
    np.testing.assert_array_equal(program(numbers(4), numbers(9)), numbers(4) + numbers(9)[:4])
    program = exported(alone, (numbers(2),), dynamic={"x": {0: "rows"}})
    np.testing.assert_array_equal(program(numbers(3)), numbers(3) + 1)
    program = exported(rolled, (numbers(4), 9), dynamic={"x": {0: fours}, "n": "n"})
    for rows, n in ((4, 9), (8, 3), (0, 2), (12, 12)):  # rolling decides nothing
        expected = np.roll(numbers(rows), n - rows)
        np.testing.assert_array_equal(program(numbers(rows), n), expected)


def test_files_with_other_formulas_are_refused(tmp_path: Path) -> None:
    """Formulas call nothing but functions of numbers, whoever wrote the file."""
    path = tmp_path / "f"
    flamec.export(lambda x, n: x * (n // 2), (numbers(3), 4), path, dynamic={"n": "n"})
    archive = Archive(io.BytesIO(path.read_bytes()), "file", PROGRAM)
    members = {m: archive.read(m) for m in archive}

    def rewritten(change: Callable[[dict[str, Any]], None]) -> ExportedProgram:
        manifest = Archive(io.BytesIO(path.read_bytes()), "file", PROGRAM).manifest
        facts = {k: v for k, v in manifest.items() if k not in ("members", "flamec", "format")}
        change(facts)
        file = io.BytesIO()
        write_archive(file, PROGRAM, facts, members.items())
        file.seek(0)
        return ExportedProgram(file, "file", default_options())

    np.testing.assert_array_equal(rewritten(lambda facts: None)(numbers(3), 7), numbers(3) * 3)
    (value,) = (i["value"] for i in archive.manifest["inputs"] if "value" in i)
    assert value["call"] == "floordiv"

    def with_formula(**changed: Any) -> Callable[[dict[str, Any]], None]:
        def change(facts: dict[str, Any]) -> None:
            for entry in facts["inputs"]:
                if "value" in entry:
                    entry["value"] |= changed

        return change

    for name in ("eval", "os.system", "__import__", "math.fsum"):
        with pytest.raises(FileFormatError, match=f"there is no function '{name}'"):
            rewritten(with_formula(call=name))
    for operand, message in (
        ({"argument": 0}, "argument 0 is no number"),  # an array
        ({"argument": -1}, "argument -1 is no number"),
        ({"argument": 2}, "argument 2 is no number"),
        ({"constant": "%s"}, "'%s' is no number"),
        ({"constant": {"tuple": [1]}}, r"\(1,\) is no number"),
        ({"size": "__import__('os')"}, "not a dimension"),
        ({"size": "1 // 0"}, "not a dimension"),
    ):
        with pytest.raises(FileFormatError, match=message):
            rewritten(with_formula(of=[operand, {"constant": 2}]))

    def unknown_kind(facts: dict[str, Any]) -> None:
        facts["leaves"][1]["number"] = "complex"

    with pytest.raises(FileFormatError, match="no kind of numbers"):
        rewritten(unknown_kind)
