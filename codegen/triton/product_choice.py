"""Choose how a matrix product is cut into blocks.

In: a program with a contraction and options (target, size hints, given schedules). Out: its
``ProductSchedule``, and candidates among which a search may look for a better one. The order of
candidates is an estimate: whole waves of blocks on the target's multiprocessors, each as long as
its products at the rate that its tile allows plus what is not overlapped with them, and no
faster than memory. It depends on sizes, element types and the target, never on the device at
hand, so that equal programs give equal results on devices of one architecture.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from flamec.codegen.lower.lanes import MEMORY_BYTES
from flamec.codegen.options import CodegenOptions, power_of_two
from flamec.codegen.triton.product_operands import describe_operand, operand_memory
from flamec.codegen.triton.product_parts import dense_place
from flamec.codegen.triton.product_prologue import looks_up
from flamec.codegen.triton.product_schedule import ProductSchedule, Target, target_facts
from flamec.ir.kernel import Compute, Contraction, Load, MatrixOperand, RowProgram
from flamec.ir.op import lookup
from flamec.ir.shape import Dim, is_multiple, structurally_equal

MOST_CANDIDATES = 16
_UNKNOWN_SIZE = 2048  # what a symbolic size without a hint counts as
_EXPENSIVE = 12  # operations that a special function counts as
_LONG_EPILOGUE = 8  # operations that do not fit beside 128 sums in a thread's registers
_SCALAR_RATE = 0.09  # elementwise operations, millions a microsecond and multiprocessor
_CROWDED = 1.1  # by which an epilogue is slower that is long, or reads, beside so many sums
_TILE_COST = 1.5  # microseconds to fill and drain a block's pipeline
_JOIN_COST = 2.5  # microseconds of one more launch in a graph, until its first results
_JOIN_LATENCY = 0.03  # microseconds for each part that is joined, however small
_JOIN_BYTES = 10  # of each sum that is joined: written, read, and in the way of operands
_PARTS_LATENCY = 0.012  # microseconds a step of depth takes in three parts, however small the tile
_REUSE = 20  # by which small tiles are slower: they read more for each product
_SMALLEST_SPLIT = 2  # steps of depth that are worth a block of their own
_MOST_PARTS, _MOST_WAVES = 32, 4  # of a split depth, and of blocks that are split
_FEW_RESULTS = 1 << 14  # of which all processors may have parts
_LOOKED_UP_COLUMNS = 64  # of a block that looks up so much that it waits
_LARGE_TILE = 256 * 128  # sums, which keep a multiprocessor busy
_WAITING = 1.2  # by which it is slower if few blocks share a processor, or many warps a block
_LATENCY = 2.0  # microseconds until what is loaded arrives, from memory
_TALL = 1.03  # by which products are slower in tiles with more rows than columns
_SMALL = 1.05  # by which small tiles are slower whose columns are looked up
_WIDE = 1.25  # by which tiles with more columns are slower that are looked up
_PERSISTENT = 1.025  # by which products are slower in a loop over tiles
_APART = 0.3  # of what memory and arithmetic do not do at the same time
_NEAR = 3  # by which the L2 cache is faster than memory
_RUN = 4  # elements next to each other that are loaded at once
_LOOKED_UP = 32  # elements of a step that a thread can look up one by one
_WORTH_PARTS = 64  # columns, of which each half is stored by itself
_BAND, _LEAST_BAND = 32, 16  # rows: too few for a warp group, and of the smallest instruction
_SLACK = 1 << 10  # bytes of shared memory for barriers

_Tile = tuple[int, int, int, int, int]  # rows, columns, depth, warps, stages


@dataclass(frozen=True)
class ProductFacts:
    """Sizes as numbers, the element types, and what the product's surroundings allow.

    ``operations`` of the epilogue on each element; ``precision`` of float32 products;
    ``loaded``: bytes that are loaded for each element of the left and of the right operand;
    ``in_memory``: no operand is computed or looked up; ``scattered``: of the left and of the
    right operand, whether each element is looked up by itself; ``read``: bytes that the epilogue
    reads for each element of the result; ``across``: whether no operand has its elements along the
    depth side by side; ``searches``: whether the right one alone is looked up; ``turns``: whether
    it alone has not.
    """

    batch: int
    rows: int
    columns: int
    depth: int
    memory: str
    result: str
    operations: int
    tma: bool
    precision: str
    loaded: tuple[int, int]
    in_memory: bool
    scattered: tuple[bool, bool]
    read: int = 0
    across: bool = False
    searches: bool = False
    turns: bool = False

    @property
    def element(self) -> int:
        return MEMORY_BYTES[self.memory]

    @property
    def has_matrix_instructions(self) -> bool:
        return self.memory in ("f16", "bf16", "f32", "f64", "i8", "u8")


def product_facts(program: RowProgram, options: CodegenOptions) -> ProductFacts:
    c = program.contraction
    assert c is not None

    def typical(size: Dim) -> int:
        known = options.typical(size)
        return _UNKNOWN_SIZE if known is None else max(1, known)

    computed = [lookup(s.op) for s in program.statements() if isinstance(s, Compute)]
    return ProductFacts(
        batch=typical(c.batch),
        rows=typical(c.rows),
        columns=typical(c.columns),
        depth=typical(c.depth),
        memory=operand_memory(program, c.left),
        result=c.memory,
        operations=sum(_EXPENSIVE if op.expensive else 1 for op in computed),
        tma=target_facts(options.target).tma and _describable(program, c),
        precision=options.precision_of(c),
        loaded=(_loaded_bytes(c.left, program), _loaded_bytes(c.right, program)),
        in_memory=c.left.prologue is None and c.right.prologue is None,
        scattered=(_is_scattered(c.left), _is_scattered(c.right)),
        read=_read_bytes(program, c),
        across=_lies_across(c.left, left=True) and _lies_across(c.right, left=False),
        searches=c.left.prologue is None and _is_looked_up(c.right),
        turns=_turns(program, c),
    )


def _turns(program: RowProgram, c: Contraction) -> bool:
    """Whether a single right matrix lies across, and can take the part of the left one."""
    if c.blocks > 1 or not structurally_equal(c.batch, 1) or c.left.prologue is not None:
        return False
    alone = _lies_across(c.right, left=False) and not _lies_across(c.left, left=True)
    return alone and _is_looked_up(c.right)


def _is_looked_up(operand: MatrixOperand) -> bool:
    return operand.prologue is not None and looks_up(operand.prologue)


def _lies_across(operand: MatrixOperand, left: bool) -> bool:
    """Whether an operand's elements along the depth do not lie side by side."""
    if operand.prologue is None:
        return structurally_equal(operand.free, 1) and not structurally_equal(operand.contracted, 1)
    places = [load.place.at for load in operand.prologue.loads()]
    depths = [at.inner if left else at.rows for at in places]
    return bool(places) and not any(structurally_equal(s, 1) for at in depths for s in at)


def _is_scattered(operand: MatrixOperand) -> bool:
    """Whether no four elements that are looked up lie next to each other."""
    if operand.prologue is None:
        return False
    loops = (*operand.prologue.rows, *operand.prologue.inner)
    return not any(
        is_multiple(loop.size, _RUN) and structurally_equal(stride, 1)
        for load in operand.prologue.loads()
        for loop, stride in zip(loops, (*load.place.at.rows, *load.place.at.inner), strict=True)
    )


def _read_bytes(program: RowProgram, c: Contraction) -> int:
    """Of arrays that lie like the result: what an epilogue reads of each element."""
    dense = dense_place(program)
    loads = [s for s in program.statements() if isinstance(s, Load)]
    found = {s.place: MEMORY_BYTES[s.memory] for s in loads if s.place.at == dense}
    return sum(n for place, n in found.items() if place.parameter not in (-1, c.result))


def _loaded_bytes(operand: MatrixOperand, program: RowProgram) -> int:
    """With the element itself, where it is computed: it takes room beside what it is made of."""
    size = MEMORY_BYTES[operand_memory(program, operand)]
    if operand.prologue is None or looks_up(operand.prologue):
        return size
    loads = (s for s in operand.prologue.element if isinstance(s, Load))
    return size + sum(MEMORY_BYTES[load.memory] for load in loads)


def _describable(program: RowProgram, c: Contraction) -> bool:
    """Whether the copy engine can bring all operands that are in memory."""
    found = [
        describe_operand(operand, operand_memory(program, operand), free, c.depth)
        for operand, free in ((c.left, c.rows), (c.right, c.columns))
        if operand.prologue is None
    ]
    return bool(found) and None not in found


def product_fits(schedule: ProductSchedule, program: RowProgram, options: CodegenOptions) -> bool:
    """Whether the target can compute a product with a schedule."""
    return fits_target(schedule, product_facts(program, options), target_facts(options.target))


def fits_target(schedule: ProductSchedule, facts: ProductFacts, target: Target) -> bool:
    return (
        facts.tma >= schedule.tma
        and facts.has_matrix_instructions >= bool(schedule.depth)
        and (not schedule.depth or schedule.depth >= least_depth(facts))
        and (schedule.bands == 1 or schedule.rows >= _LEAST_BAND * schedule.bands)
        and (not schedule.in_registers or _wants_registers(facts, target))
        and shared_bytes(schedule, facts) + _SLACK <= target.shared_bytes
    )


def product_candidates(
    program: RowProgram, options: CodegenOptions, most: int = MOST_CANDIDATES
) -> list[ProductSchedule]:
    """Schedules that fit the target, the best by estimate first."""
    facts = product_facts(program, options)
    return candidates_of(facts, target_facts(options.target))[:most]


def candidates_of(facts: ProductFacts, target: Target) -> list[ProductSchedule]:
    """The same for what is known of a product."""
    if not facts.has_matrix_instructions:
        rows, columns = (min(32, max(4, power_of_two(n))) for n in (facts.rows, facts.columns))
        return [ProductSchedule(rows, columns, 0, 4, 1)]
    tiles = dict.fromkeys(
        _clipped(tile, facts)
        for tile in _tiles(facts, target)
        if _keeps_values(tile, facts, target)
    )
    found = [
        s
        for tile in tiles
        for s in _variants(tile, facts, target)
        if shared_bytes(s, facts) + _SLACK <= target.shared_bytes
    ]
    return sorted(found, key=lambda s: microseconds(s, facts, target))


def _tiles(facts: ProductFacts, target: Target) -> Sequence[_Tile]:
    """Tiles that are good for large matrices of a type; narrow ones for few rows or columns."""
    if facts.memory == "f64":
        return ((64, 64, 16, 4, 3), (32, 64, 16, 4, 3), (32, 32, 16, 4, 3), (16, 32, 32, 2, 3))
    if facts.memory == "f32" and facts.precision == "ieee":
        return (
            (128, 128, 16, 8, 3),
            (64, 128, 16, 8, 3),
            (64, 64, 16, 4, 3),
            (32, 64, 32, 4, 3),
            (16, 64, 64, 4, 3),
        )
    if facts.memory == "f32" and facts.precision == "tf32x3" and target.warp_groups:
        return _PARTS_TILES
    shapes = _WARP_GROUP_TILES if target.warp_groups else _WARP_TILES
    if _wants_bands(facts, target):
        shapes = _BAND_TILES
    if _wants_registers(facts, target):
        shapes = _REGISTER_TILES
    scale = {1: 2, 2: 1, 4: 0.5}[facts.element]
    return [(m, n, int(k * scale), warps, stages) for m, n, k, warps, stages in shapes]


_NARROW_TILES: tuple[_Tile, ...] = (
    (64, 64, 64, 4, 4),
    (32, 64, 128, 4, 3),
    (16, 128, 64, 4, 4),
    (16, 64, 128, 4, 3),
    (16, 32, 128, 4, 3),
    (16, 32, 512, 4, 4),
    (16, 32, 256, 4, 6),
    (16, 16, 256, 1, 6),
    (64, 16, 128, 4, 3),
    (32, 16, 256, 4, 6),
)
_WARP_GROUP_TILES: tuple[_Tile, ...] = (
    (128, 256, 64, 8, 4),
    (128, 256, 64, 8, 3),
    (256, 128, 64, 8, 3),
    (128, 128, 128, 8, 3),
    (128, 128, 64, 4, 3),
    (128, 128, 64, 8, 3),
    (128, 128, 64, 8, 4),
    (64, 256, 64, 4, 3),
    (64, 128, 64, 4, 4),
    (128, 64, 64, 4, 4),
    *_NARROW_TILES,
)
_BAND_TILES: tuple[_Tile, ...] = (  # in bands, where there are rows enough
    (128, 128, 64, 4, 3),
    (128, 256, 64, 8, 3),
    (64, 128, 64, 4, 3),
    *(tile for tile in _NARROW_TILES if tile[0] < 64),
)
_REGISTER_TILES: tuple[_Tile, ...] = (  # what passes through registers is one side of a tile
    (256, 128, 64, 8, 3),
    (128, 128, 64, 8, 3),
    (64, 128, 64, 4, 3),
    *_NARROW_TILES,
)
_SHALLOW, _DEEP = (64, 64, 64), (128, 4, 3)  # what is faster where columns are looked up
_PARTS_TILES: tuple[_Tile, ...] = (  # float32 in three parts: warp groups gain in one form only
    (128, 64, 32, 4, 4),
    (32, 64, 64, 4, 3),
    (64, 16, 64, 4, 3),
    (16, 64, 64, 4, 3),
    (16, 32, 64, 2, 3),
    (16, 16, 64, 1, 3),
)
_WARP_TILES: tuple[_Tile, ...] = (
    (128, 256, 32, 8, 3),
    (128, 128, 64, 8, 3),
    (128, 128, 32, 8, 3),
    (128, 64, 32, 4, 3),
    (64, 128, 32, 4, 3),
    *_NARROW_TILES,
)


def _keeps_values(tile: _Tile, facts: ProductFacts, target: Target) -> bool:
    """Whether sums, operands and an epilogue find room in registers. Warp groups take operands
    from shared memory, unless they are split in two; other matrix instructions need them in
    registers, too."""
    rows, columns, _, warps, _ = tile
    plain = facts.operations == 0 and facts.element == 2
    sides = zip((rows, columns), facts.scattered, strict=True)
    if any(side * tile[2] > _LOOKED_UP * 32 * warps for side, scattered in sides if scattered):
        return False
    if target.warp_groups:
        plain = facts.memory != "f32" or facts.precision == "tf32"
    return plain or rows * columns <= 64 * 32 * warps


def _clipped(tile: _Tile, facts: ProductFacts) -> _Tile:
    """No larger than the matrices, with fewer warps for little work."""
    rows, columns, depth, warps, stages = tile
    rows = min(rows, max(16, power_of_two(facts.rows)))
    columns = min(columns, max(16, power_of_two(facts.columns)))
    depth = min(depth, max(least_depth(facts), power_of_two(facts.depth)))
    if facts.searches and facts.element == 2 and (rows, columns, depth) == _SHALLOW:
        depth, warps, stages = _DEEP
    share = 128 if depth >= 256 else 256  # of a tile, that is worth a warp
    return rows, columns, depth, min(warps, max(1, rows * columns // share)), stages


def _variants(tile: _Tile, facts: ProductFacts, target: Target) -> Iterable[ProductSchedule]:
    rows, columns, depth, warps, stages = tile
    scalar = facts.memory == "f32" and facts.precision == "ieee"
    bands = max(1, rows // _BAND) if _wants_bands(facts, target) else 1
    tma = facts.tma and not scalar and bands == 1
    base = ProductSchedule(rows, columns, depth, warps, stages, tma=tma, bands=bands)
    base = replace(base, in_registers=_wants_registers(facts, target))
    crowded = _is_crowded(rows, columns, warps)
    if crowded and bands == 1 and (facts.operations >= _LONG_EPILOGUE or facts.element == 4):
        base = replace(base, store_parts=2)
    looks_up = _is_tf32(facts) and target.warp_groups and not facts.in_memory
    if tma and looks_up and columns >= _WORTH_PARTS:
        base = replace(base, store_parts=2)  # each takes the place of operands
    yield base
    if scalar and facts.tma:
        yield replace(base, tma=True)
    blocks = _blocks(base, facts)
    # the indices of what is looked up would be found again for each step of a joined loop
    joins_loops = base.tma and facts.in_memory
    if joins_loops and target.warp_groups and blocks > target.processors:
        if crowded and base.store_parts == 1:  # results and operands need room at a time
            yield replace(base, persistent=True, store_parts=2)
        yield replace(base, persistent=True)
    most_results = _FEW_RESULTS if bands == 1 else _FEW_RESULTS * 2 * bands
    results = facts.batch * facts.rows * facts.columns
    few = results <= most_results and (bands > 1 or not facts.in_memory)
    most = min(target.processors if few else _MOST_PARTS, facts.depth // (_SMALLEST_SPLIT * depth))
    waves = range(1, _MOST_WAVES + 1)
    splits = {min(most, wave * target.processors // blocks) for wave in waves}
    yield from (replace(base, split_k=n) for n in sorted(splits) if n >= 2)


def _wants_bands(facts: ProductFacts, target: Target) -> bool:
    """Whether instructions of warp groups would have operands put in order in each block."""
    return _is_tf32(facts) and facts.across and target.warp_groups


def _wants_registers(facts: ProductFacts, target: Target) -> bool:
    """Whether a right operand would be put in order element by element on its way."""
    return _is_tf32(facts) and facts.turns and facts.tma and target.warp_groups


def _is_tf32(facts: ProductFacts) -> bool:
    return facts.memory == "f32" and facts.precision == "tf32"


def _is_crowded(rows: int, columns: int, warps: int) -> bool:
    """Whether the sums take half of a thread's registers."""
    return rows * columns >= 128 * 32 * warps


def least_depth(facts: ProductFacts) -> int:
    """The depth of the smallest matrix instruction."""
    return 32 if facts.element == 1 else 16


def _ceil_div(size: int, block: int) -> int:
    return -(-size // block)


def _blocks(s: ProductSchedule, facts: ProductFacts) -> int:
    tiles = _ceil_div(facts.rows, s.rows) * _ceil_div(facts.columns, s.columns)
    return facts.batch * tiles * s.split_k


def shared_bytes(s: ProductSchedule, facts: ProductFacts) -> int:
    """An estimate of the shared memory of a block: operands on their way, and the result with
    what the epilogue reads, which take their place unless more operands are on their way (or are
    put in another order)."""
    left, right = facts.loaded
    operands = s.stages * s.depth * (s.rows * left + s.columns * right)
    result = s.rows * s.columns // s.store_parts * MEMORY_BYTES[facts.result]
    if s.split_k > 1:
        result = s.rows * s.columns * max(4, MEMORY_BYTES[facts.result])
    else:
        result += s.rows * s.columns // s.store_parts * facts.read
    halves = s.store_parts > 1 and not facts.in_memory
    apart = s.persistent or (facts.element == 4 and s.tma and not halves)
    return operands + result if apart else max(operands, result)


def microseconds(s: ProductSchedule, facts: ProductFacts, target: Target) -> float:
    """An estimate of the time on the target's usual device; see the module's docstring."""
    steps = _ceil_div(_ceil_div(facts.depth, s.depth), s.split_k)
    work = 2 * s.rows * s.columns * steps * s.depth
    rate = target.rate * 1e6 * _relative_rate(facts, target)
    rate /= 1 + _REUSE * (1 / s.rows + 1 / s.columns)
    outside = _TILE_COST
    if s.split_k == 1:
        outside += s.rows * s.columns * facts.operations / (_SCALAR_RATE * 1e6)
        long = facts.read or facts.operations >= _LONG_EPILOGUE
        if long and _is_crowded(s.rows, s.columns, s.warps):
            outside *= _CROWDED
    near = (s.rows + s.columns) * steps * s.depth * facts.element
    products = max(work / rate, near * target.processors / (_NEAR * target.bandwidth))
    latency = 0.0
    if facts.memory == "f32" and facts.precision == "tf32x3":
        latency = steps * s.depth * _PARTS_LATENCY
    if facts.searches and s.rows * s.columns < 1 << 14:
        products *= _SMALL
    if facts.searches and s.columns > s.rows:
        products *= _WIDE
    elif not facts.searches and s.rows > s.columns and target.warp_groups:
        products *= _TALL
    if s.persistent:
        products *= _PERSISTENT
        if _blocks(s, facts) > target.processors:  # else there is nothing to overlap with
            outside -= 0.7 * _TILE_COST
    elif 2 * shared_bytes(s, facts) <= target.shared_bytes and s.rows * s.columns <= 1 << 14:
        outside *= 0.5  # two blocks share a multiprocessor: one multiplies, the other stores
    resident = min(8, max(1, target.shared_bytes // (shared_bytes(s, facts) + _SLACK)))
    waits = not (facts.in_memory or s.in_registers) and _waits_for_operands(s, facts)
    rounds = _ceil_div(_blocks(s, facts), target.processors)
    alone = min(resident, rounds) < 2  # with a multiprocessor to itself
    small = s.rows * s.columns < (64 * 32 * s.warps if waits else _LARGE_TILE)
    waves = float(rounds)
    if waits and facts.element == 4 and rounds > resident:  # the last ones share with fewer
        waves += -rounds % resident / 2
    compute = max(waves * (products + outside), _ceil_div(rounds, resident) * (latency + outside))
    results = facts.batch * facts.rows * facts.columns
    reads = facts.batch * facts.depth * (facts.rows + facts.columns) * facts.element
    moved = reads + results * MEMORY_BYTES[facts.result]
    ahead = (s.stages - 1) * s.depth * (s.rows + s.columns) * facts.element
    on_way = min(_blocks(s, facts), resident * target.processors) * ahead
    transfer = moved / min(target.bandwidth, max(ahead, on_way) / _LATENCY)
    total = max(compute, transfer) + _APART * min(compute, transfer)
    if (alone or small) if waits else (facts.searches and alone and small):
        total *= _WAITING
    if s.split_k > 1:
        joined = _JOIN_BYTES * s.split_k * results / target.bandwidth
        total += _JOIN_COST + max(joined, _JOIN_LATENCY * s.split_k)
    return total


def _relative_rate(facts: ProductFacts, target: Target) -> float:
    """Products of a type against those of 16-bit floats."""
    if facts.memory == "f32":
        fast = 0.5 if facts.precision == "tf32" else 0.11 if target.warp_groups else 1 / 6
        if _wants_bands(facts, target):
            fast = 0.22
        return 0.06 if facts.precision == "ieee" else fast
    return {"f64": 0.06, "i8": 2.0, "u8": 2.0}.get(facts.memory, 1.0)


def _waits_for_operands(s: ProductSchedule, facts: ProductFacts) -> bool:
    """Whether a block that looks operands up is done with a step before the next is there."""
    if facts.element == 2:
        return s.columns <= _LOOKED_UP_COLUMNS and not facts.searches
    return _is_tf32(facts)
