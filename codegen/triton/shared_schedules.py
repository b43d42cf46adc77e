"""Schedules of products that classes of sizes share.

In: a product over sizes of a class (``CodegenOptions.size_bounds``). Out: a schedule that is
estimated to be hardly slower than the best one for the class, and that neighbouring classes get,
too, wherever it is so for them: kernels of equal text are compiled once. Invariant: the schedule
depends on the class alone, not on what was met before. Sizes are divided into wide regions; the
schedules of a region are a greedy cover of points in it (Chvatal, "A greedy heuristic for the
set-covering problem", 1979), and a class takes the first of them that is good enough for it.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product as combinations

from flamec.codegen.options import CodegenOptions
from flamec.codegen.triton.product_choice import (
    ProductFacts,
    candidates_of,
    fits_target,
    microseconds,
    product_facts,
)
from flamec.codegen.triton.product_schedule import ProductSchedule, Target, target_facts
from flamec.ir.kernel import RowProgram
from flamec.ir.shape import symbols_of

SLOWER, LONGER = 1.03, 0.05  # what sharing may cost: a factor, and microseconds of any kernel
FIRST_REGION, REGION = 6, 4  # powers of two: the sizes up to 64, then sixteen times as many each
SMALLEST = 2
MOST_SYMBOLS = 3
_EACH = 12  # schedules that are looked at for each point

_Points = tuple[tuple[str, tuple[int, ...]], ...]


def product_schedule(program: RowProgram, options: CodegenOptions) -> ProductSchedule:
    """The best schedule by estimate; for a class of sizes one that is shared, if it is as good."""
    facts, target = product_facts(program, options), target_facts(options.target)
    best = candidates_of(facts, target)[0]
    points = _points(program, options)
    if not points or not facts.has_matrix_instructions:
        return best
    limit = _limit(microseconds(best, facts, target))
    for schedule in _shared(program, options.target, options.float32_products, points):
        if fits_target(schedule, facts, target) and microseconds(schedule, facts, target) <= limit:
            return schedule
    return best


def _limit(best: float) -> float:
    return best * SLOWER + LONGER


def _points(program: RowProgram, options: CodegenOptions) -> _Points:
    """Values of each symbol of a product in its region; empty where there is no class."""
    c = program.contraction
    assert c is not None
    sizes = (c.batch, c.rows, c.columns, c.depth)
    symbols = sorted(set().union(*map(symbols_of, sizes)))
    if len(symbols) > MOST_SYMBOLS or not set(symbols) <= set(options.size_bounds):
        return ()
    return tuple((s, _region(options.size_bounds[s])) for s in symbols)


def _region(bound: int) -> tuple[int, ...]:
    """Typical sizes of the classes of a region: three quarters of powers of two."""
    power = max(0, bound - 1).bit_length()
    first, last = SMALLEST, FIRST_REGION
    if power > last:
        first = last + 1 + (power - last - 1) // REGION * REGION
        last = first + REGION - 1
    return tuple(3 << p >> 2 for p in range(first, last + 1))


@lru_cache(maxsize=256)
def _shared(
    program: RowProgram, name: str, precision: str, points: _Points
) -> tuple[ProductSchedule, ...]:
    """Schedules of which each point has one that is good enough, the one of most points first."""
    target = target_facts(name)
    symbols, values = zip(*points, strict=True)
    facts = []
    for sizes in combinations(*values):
        hints = dict(zip(symbols, sizes, strict=True))
        options = CodegenOptions(
            size_hints=hints, size_bounds=hints, target=name, float32_products=precision
        )
        facts.append(product_facts(program, options))
    known = dict.fromkeys(s for point in facts for s in candidates_of(point, target)[:_EACH])
    times = {s: [_time(s, point, target) for point in facts] for s in known}
    limits = [_limit(min(times[s][i] for s in known)) for i in range(len(facts))]
    good = {s: {i for i, t in enumerate(times[s]) if t <= limits[i]} for s in known}
    left, found = set(range(len(facts))), []
    while left:
        chosen = max(known, key=lambda s: (len(good[s] & left), not s.persistent, -sum(times[s])))
        found.append(chosen)
        left -= good[chosen]
    return tuple(found)


def _time(schedule: ProductSchedule, facts: ProductFacts, target: Target) -> float:
    fits = fits_target(schedule, facts, target)
    return microseconds(schedule, facts, target) if fits else float("inf")
