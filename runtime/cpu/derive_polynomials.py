"""Derive the polynomial coefficients of ``flamec_vector_math.h``; a tool, never imported.

In: nothing. Out: C initialisers on standard output. Needs mpmath (``pip install mpmath``), runs for
about a minute. Method: Remez exchange on a dense grid for the weighted error; coefficients are
rounded to the target type; for float32 one by one from the lowest power up.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from mpmath import mp, mpf

mp.dps = 40
GRID = 1500

Real = Callable[[mpf], mpf]


def remez(target: Real, powers: list[int], weight: Real, low: float, high: float) -> list[mpf]:
    """Coefficients c that minimise the largest |weight(x) (target(x) - sum c_i x^powers_i)|."""
    count = len(powers)
    points = [
        (mpf(low) + high) / 2 - (mpf(high) - low) / 2 * mp.cos(mp.pi * i / (GRID - 1))
        for i in range(GRID)
    ]
    values = [target(x) for x in points]
    weights = [weight(x) for x in points]
    columns = [[x**p for p in powers] for x in points]
    chosen = [round((GRID - 1) * (i + 0.5) / (count + 1)) for i in range(count + 1)]
    solution: list[mpf] = []
    for _ in range(30):
        matrix = mp.matrix(count + 1, count + 1)
        right = mp.matrix(count + 1, 1)
        for row, point in enumerate(chosen):
            for column in range(count):
                matrix[row, column] = columns[point][column]
            matrix[row, count] = (-1) ** row / weights[point]
            right[row] = values[point]
        solved = mp.lu_solve(matrix, right)
        solution = [solved[i] for i in range(count)]
        errors = [
            w * (v - sum(c * b for c, b in zip(solution, column, strict=True)))
            for w, v, column in zip(weights, values, columns, strict=True)
        ]
        extremes = _alternating(errors, count + 1)
        if extremes is None or extremes == chosen:
            break
        chosen = extremes
    return solution


def _alternating(errors: list[mpf], wanted: int) -> list[int] | None:
    """Positions of the largest error in each run of one sign, thinned to ``wanted``."""
    found: list[int] = []
    for position, error in enumerate(errors):
        if found and (errors[found[-1]] > 0) == (error > 0):
            if abs(error) > abs(errors[found[-1]]):
                found[-1] = position
        else:
            found.append(position)
    while len(found) > wanted:
        found.pop(0 if abs(errors[found[0]]) < abs(errors[found[-1]]) else -1)
    return found if len(found) == wanted else None


def rounded(
    target: Real, powers: list[int], weight: Real, low: float, high: float, code: str
) -> list[float]:
    """``remez`` with coefficients of type ``code`` ("f" float, "d" double).

    Rounding to float loses much, so the rest is fitted again after each coefficient.
    """
    fixed: list[float] = []
    if code == "d":
        return [float(c) for c in remez(target, powers, weight, low, high)]
    for start in range(len(powers)):

        def rest(x: mpf, known: tuple[float, ...] = tuple(fixed)) -> mpf:
            return target(x) - sum(mpf(c) * x**p for c, p in zip(known, powers, strict=False))

        coefficient = remez(rest, powers[start:], weight, low, high)[0]
        fixed.append(struct.unpack(code, struct.pack(code, float(coefficient)))[0])
    return fixed


def report(name: str, coefficients: list[float], suffix: str) -> None:
    print(f"/* {name}, lowest power first */")
    print(", ".join(value.hex() + suffix for value in coefficients))


def quotient(function: Real, at_zero: mpf, power: int) -> Real:
    """function(x) / x^power, with its limit at 0."""
    return lambda x: at_zero if abs(x) < mpf(10) ** -9 else function(x) / x**power


def main() -> None:
    half_ln2 = 0.34660
    exp_rest = quotient(lambda x: mp.expm1(x) - x, mpf(1) / 2, 2)
    log_rest = quotient(lambda x: mp.log1p(x) - x + x * x / 2, mpf(1) / 3, 3)
    tanh_rest = quotient(lambda x: mp.tanh(mp.sqrt(x)) / mp.sqrt(x) - 1, -mpf(1) / 3, 1)
    sin_rest = quotient(lambda x: mp.sin(mp.sqrt(x)) / mp.sqrt(x) - 1, -mpf(1) / 6, 1)
    cos_rest = quotient(lambda x: mp.cos(mp.sqrt(x)) - 1 + x / 2, mpf(1) / 24, 2)
    erf_rest = quotient(lambda x: mp.erf(mp.sqrt(x)) / mp.sqrt(x) - 1, 2 / mp.sqrt(mp.pi) - 1, 0)
    atanh_rest = quotient(lambda x: 2 * mp.atanh(mp.sqrt(x)) / mp.sqrt(x) - 2, 2 / mpf(3), 1)
    ln_erfc = lambda x: -mp.log(mp.erfc(x))  # noqa: E731
    log_low, log_high = -0.29290, 0.41422
    eighth_pi_squared = 0.61687
    jobs: list[tuple[str, Real, int, Real, float, float, str]] = [
        ("exp f32: (e^r - 1 - r) / r^2", exp_rest, 5, lambda x: x * x, -half_ln2, half_ln2, "f"),
        ("log f32: (ln(1+f) - f + f^2/2) / f^3", log_rest, 10, _log_weight, log_low, log_high, "f"),
        ("tanh f32: (tanh x / x - 1) / x^2 in x^2", tanh_rest, 5, lambda s: s, 1e-9, 0.391, "f"),
        (
            "sin f32: (sin x / x - 1) / x^2 in x^2",
            sin_rest,
            4,
            lambda s: s,
            1e-9,
            eighth_pi_squared,
            "f",
        ),
        (
            "cos f32: (cos x - 1 + x^2/2) / x^4 in x^2",
            cos_rest,
            4,
            lambda s: s * s,
            1e-9,
            eighth_pi_squared,
            "f",
        ),
        ("erf f32: erf x / x - 1 in x^2", erf_rest, 7, lambda s: mpf(1), 1e-9, 0.85, "f"),
        ("erf f32: -ln erfc x", ln_erfc, 8, mp.erfc, 0.9, 4.0, "f"),
        ("exp f64: (e^r - 1 - r) / r^2", exp_rest, 11, lambda x: x * x, -half_ln2, half_ln2, "d"),
        (
            "log f64: (2 atanh s / s - 2) / s^2 in s^2",
            atanh_rest,
            7,
            lambda s: s,
            1e-12,
            0.02945,
            "d",
        ),
        ("tanh f64: (tanh x / x - 1) / x^2 in x^2", tanh_rest, 11, lambda s: s, 1e-12, 0.391, "d"),
    ]
    for name, target, count, weight, low, high, code in jobs:
        powers = list(range(count))
        values = rounded(target, powers, weight, low, high, code)
        worst = max(
            abs(
                weight(x)
                * (target(x) - sum(mpf(c) * x**p for c, p in zip(values, powers, strict=True)))
            )
            for x in (mpf(low) + (mpf(high) - low) * i / 400 for i in range(401))
        )
        report(f"{name}; error {mp.nstr(worst, 3)}", values, "f" if code == "f" else "")


def _log_weight(x: mpf) -> mpf:
    return x**3 / mp.log1p(x) if abs(x) > mpf(10) ** -9 else x * x


if __name__ == "__main__":
    main()
