/* The loops of flamec_product.h for its type of numbers, SCALAR: c_f32 or c_f64. BITS is an integer
 * as wide, NAME(x) is x of this type, INDICES the list of a vector's lanes. */

typedef SCALAR NAME(lanes) __attribute__((vector_size(FLAMEC_REGISTER)));
typedef NAME(lanes) NAME(unaligned) __attribute__((aligned(1), may_alias));
typedef BITS NAME(bits) __attribute__((vector_size(FLAMEC_REGISTER)));
enum {
    NAME(LANES) = FLAMEC_REGISTER / sizeof(SCALAR),
    NAME(WIDTH) = VECTORS * NAME(LANES),
};

/* Rows whose numbers differ in a bit exchange the lanes whose numbers do, bit by bit. */
FLAMEC_INLINE void NAME(transpose)(NAME(lanes) *x) {
    EXCHANGE(x, NAME(lanes), NAME(LANES), 1)
    EXCHANGE(x, NAME(lanes), NAME(LANES), 2)
    EXCHANGE(x, NAME(lanes), NAME(LANES), 4)
    EXCHANGE(x, NAME(lanes), NAME(LANES), 8)
}

/* One tile: at each step an element of rows[i] times a row of a panel, added to to[i] if there is
 * something; `ahead`: a row of which the elements are soon needed. */
FLAMEC_INLINE void NAME(tile)(const int count, const int vectors, const SCALAR *const *rows,
                              const Step *steps, int64_t depth, const SCALAR *panel,
                              SCALAR *const *to, int more, const SCALAR *ahead) {
    const SCALAR *row[ROWS];
    NAME(lanes) sum[ROWS][VECTORS];
#pragma GCC unroll 8
    for (int i = 0; i < count; i++) {
        row[i] = rows[i];
#pragma GCC unroll 8
        for (int j = 0; j < vectors; j++) sum[i][j] = (NAME(lanes)){0};
    }
    for (int64_t l = 0; l < depth; l++) {
        const int64_t at = steps[l].left;
        const NAME(lanes) *const row_of_panel = (const NAME(lanes) *)panel + steps[l].panel * vectors;
        NAME(lanes) y[VECTORS];
        __builtin_prefetch(ahead + at);
#pragma GCC unroll 8
        for (int j = 0; j < vectors; j++) y[j] = row_of_panel[j];
#pragma GCC unroll 8
        for (int i = 0; i < count; i++) {
            const NAME(lanes) x = row[i][at] - (NAME(lanes)){0};
#pragma GCC unroll 8
            for (int j = 0; j < vectors; j++) sum[i][j] = NAME(MULTIPLY_ADD)(x, y[j], sum[i][j]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < count; i++)
#pragma GCC unroll 8
        for (int j = 0; j < vectors; j++) {
            NAME(unaligned) *there = (NAME(unaligned) *)(to[i] + j * NAME(LANES));
            if (more) sum[i][j] += *there;
            *there = sum[i][j];
        }
}

/* A function for each height and width of a tile. */
#define TILE(count, vectors)                                                               \
    static __attribute__((noinline)) void NAME(tile_##count##_##vectors)(                  \
        const SCALAR *const *rows, const Step *steps, int64_t depth, const SCALAR *panel,  \
        SCALAR *const *to, int more, const SCALAR *ahead) {                                \
        NAME(tile)(count, vectors, rows, steps, depth, panel, to, more, ahead);            \
    }
#define TILES(vectors)                                                                     \
    TILE(1, vectors) TILE(2, vectors) TILE(3, vectors)                                     \
    TILE(4, vectors) TILE(5, vectors) TILE(6, vectors)
#define CHOICES(vectors)                                                                   \
    {NAME(tile_1_##vectors), NAME(tile_2_##vectors), NAME(tile_3_##vectors),               \
     NAME(tile_4_##vectors), NAME(tile_5_##vectors), NAME(tile_6_##vectors)}
TILES(1)
TILES(2)
#if VECTORS == 4
TILES(3)
TILES(4)
#endif
typedef void (*NAME(Tile))(const SCALAR *const *, const Step *, int64_t, const SCALAR *,
                           SCALAR *const *, int, const SCALAR *);
static const NAME(Tile) NAME(tiles)[VECTORS][ROWS] = {
    CHOICES(1), CHOICES(2),
#if VECTORS == 4
    CHOICES(3), CHOICES(4),
#endif
};
#undef TILE
#undef TILES
#undef CHOICES

/* The tiles beside each other of some rows, of panels of some depth; `to`: the places of the rows,
 * which become those behind the columns. */
static void NAME(row_of_tiles)(const SCALAR *const *rows, int count, const Step *steps,
                               int64_t number, int64_t depth, const SCALAR *panel,
                               int64_t columns, SCALAR **to, int more, const SCALAR *ahead) {
    for (int64_t j = 0; j < columns; j += NAME(WIDTH)) {
        const int64_t width = least(NAME(WIDTH), columns - j);
        const int64_t vectors = (width + NAME(LANES) - 1) / NAME(LANES);
        const NAME(Tile) tile = NAME(tiles)[vectors - 1][count - 1];
        if (width == vectors * NAME(LANES))
            tile(rows, steps, number, panel, to, more, ahead);
        else {
            SCALAR edge[ROWS * NAME(WIDTH)], *inside[ROWS];
            for (int i = 0; i < count; i++) inside[i] = edge + i * NAME(WIDTH);
            tile(rows, steps, number, panel, inside, 0, ahead);
            for (int i = 0; i < count; i++)
                for (int64_t k = 0; k < width; k++)
                    to[i][k] = more ? to[i][k] + inside[i][k] : inside[i][k];
        }
        panel += vectors * NAME(LANES) * depth;
        for (int i = 0; i < count; i++) to[i] += width;
    }
}

/* A vector of columns of a panel: where it goes, how far apart its rows are, how many columns it
 * has, the place of the furthest one, and how far apart they are if that is even and there are no
 * fewer than lanes, else 0. It is made of `pieces` pieces of columns that are `apart`,
 * 1 or 2, in memory, each with the place where lane 0 would be, and the lanes that count. */
typedef struct NAME(Columns) {
    SCALAR *to;
    const int64_t *across;
    int64_t step, count, furthest, distance, apart, pieces, first[MOST_PIECES], lowest, highest;
    NAME(bits) mask[MOST_PIECES];
} NAME(Columns);

static void NAME(find_pieces)(NAME(Columns) *v) {
    v->pieces = 0;
    v->furthest = v->across[0];
    v->distance = v->count == NAME(LANES) ? v->across[1] - v->across[0] : 0;
    for (int64_t k = 1; k < v->count; k++)
        if (v->across[k] - v->across[k - 1] != v->distance) v->distance = 0;
    v->apart = 1;
#ifdef FLAMEC_SHUFFLES
    if (v->count > 2 && (v->across[1] - v->across[0] == 2 || v->across[2] - v->across[1] == 2))
        v->apart = 2;
#endif
    for (int64_t k = 0; k < v->count; k++) {
        const int begins = !k || v->across[k] != v->across[k - 1] + v->apart;
        v->furthest = v->across[k] > v->furthest ? v->across[k] : v->furthest;
        v->pieces += begins;
        if (v->pieces > MOST_PIECES) continue;
        const int64_t place = v->across[k] - k * v->apart, piece = v->pieces - 1;
        if (begins) {
            v->first[piece] = place;
            v->mask[piece] = (NAME(bits)){0};
            v->lowest = !k || place < v->lowest ? place : v->lowest;
            v->highest = !k || place > v->highest ? place : v->highest;
        }
        v->mask[piece][k] = -1;
    }
    v->highest += (NAME(LANES) - 1) * v->apart;
}

/* Tiles side by side, of each as many vectors as there are columns, row by row. */
static int64_t NAME(divide)(NAME(Columns) *vector, SCALAR *to, const int64_t *across,
                            int64_t columns, int64_t depth) {
    int64_t number = 0;
    for (int64_t j = 0; j < columns; j += NAME(LANES), number++) {
        const int64_t inside = j % NAME(WIDTH), width = least(NAME(WIDTH), columns - j + inside);
        NAME(Columns) *v = vector + number;
        v->to = to + inside;
        v->across = across + j;
        v->step = (width + NAME(LANES) - 1) / NAME(LANES) * NAME(LANES);
        v->count = least(NAME(LANES), columns - j);
        NAME(find_pieces)(v);
        if (inside + NAME(LANES) >= v->step) to += v->step * depth;
    }
    return number;
}

/* As many lanes from a place on as are `apart`: every second one of two vectors that have the last
 * element of the first in common, so that nothing beyond is read. */
FLAMEC_INLINE NAME(lanes) NAME(lanes_apart)(const SCALAR *from, int64_t apart) {
    const NAME(lanes) low = *(const NAME(unaligned) *)from;
#ifdef FLAMEC_SHUFFLES
    if (apart == 2) {
        const NAME(lanes) high = *(const NAME(unaligned) *)(from + NAME(LANES) - 1);
        return __builtin_shufflevector(low, high, INDICES(SECOND, 0, NAME(LANES)));
    }
#endif
    return low;
}

/* Row l of columns that are few pieces. `safe`: the pieces' whole vectors may be read. */
FLAMEC_INLINE void NAME(copy_columns)(const NAME(Columns) *v, const SCALAR *from, int64_t l,
                                      int safe) {
    SCALAR *to = v->to + l * v->step;
    if (v->pieces == 1 && v->count == NAME(LANES) && v->apart == 1)
        *(NAME(lanes) *)to = *(const NAME(unaligned) *)(from + v->first[0]);
    else if (safe) {
        NAME(bits) x = (NAME(bits))NAME(lanes_apart)(from + v->first[0], v->apart) & v->mask[0];
        for (int64_t i = 1; i < v->pieces; i++)
            x |= (NAME(bits))NAME(lanes_apart)(from + v->first[i], v->apart) & v->mask[i];
        *(NAME(bits) *)to = x;
    } else
        for (int64_t j = 0; j < NAME(LANES); j++) to[j] = j < v->count ? from[v->across[j]] : 0;
}

/* Columns along a run of neighbours of the depth. `safe`: whole vectors may be read. */
FLAMEC_INLINE void NAME(transpose_columns)(const NAME(Columns) *v, const SCALAR *from,
                                           const int *order, int64_t run, int safe) {
    NAME(lanes) x[NAME(LANES)];
    if (safe && v->count == NAME(LANES)) {
#pragma GCC unroll 16
        for (int j = 0; j < NAME(LANES); j++)
            x[j] = *(const NAME(unaligned) *)(from + v->across[j]);
    } else {
        for (int j = 0; j < NAME(LANES); j++) {
            x[j] = (NAME(lanes)){0};
            for (int64_t l = 0; j < v->count && l < run; l++) x[j][l] = from[v->across[j] + l];
        }
    }
    NAME(transpose)(x);
    if (run == NAME(LANES)) {
#pragma GCC unroll 16
        for (int l = 0; l < NAME(LANES); l++) *(NAME(lanes) *)(v->to + order[l] * v->step) = x[l];
    } else
        for (int64_t l = 0; l < run; l++) *(NAME(lanes) *)(v->to + order[l] * v->step) = x[l];
}

FLAMEC_INLINE void NAME(gather_columns)(const NAME(Columns) *v, const SCALAR *from,
                                        const int *order, int64_t run) {
    for (int64_t l = 0; l < run; l++) {
        SCALAR *to = v->to + order[l] * v->step;
        const SCALAR *const first = from + v->across[0] + l;
        if (v->distance) {
#pragma GCC unroll 16
            for (int64_t j = 0; j < NAME(LANES); j++) to[j] = first[j * v->distance];
        } else
            for (int64_t j = 0; j < NAME(LANES); j++)
                to[j] = j < v->count ? from[v->across[j] + l] : 0;
    }
}

/* A panel: some depth of some columns. */
static __attribute__((noinline)) void NAME(pack_right)(
    SCALAR *to, const SCALAR *from, const int64_t *across, int64_t columns, const int64_t *along,
    const int *order, int64_t depth) {
    NAME(Columns) vector[MOST_VECTORS];
    const int64_t vectors = NAME(divide)(vector, to, across, columns, depth);
    int copies = 1;
    int64_t lowest = across[0], highest = across[0];
    for (int64_t i = 0; i < vectors; i++) copies &= vector[i].pieces <= MOST_PIECES;
    for (int64_t j = 0; j < columns; j++) {
        lowest = least(lowest, across[j]);
        highest = across[j] > highest ? across[j] : highest;
    }
    lowest += along[order[0]];
    highest += along[order[depth - 1]];
    if (copies) {
        for (int64_t l = 0; l < depth; l++)
            for (int64_t i = 0; i < vectors; i++)
                NAME(copy_columns)(vector + i, from + along[l], l,
                                   along[l] + vector[i].lowest >= lowest &&
                                       along[l] + vector[i].highest <= highest);
        return;
    }
    int64_t runs[DEPTH + 1], pieces = 0; /* of which no place follows another */
    for (int64_t l = 0; l < depth; pieces++) {
        const int64_t first = runs[pieces] = l;
        do l++;
        while (l < depth && l < first + NAME(LANES) &&
               along[order[l]] == along[order[first]] + l - first);
    }
    runs[pieces] = depth;
    /* columns close to each other: a run of all of them is read before the next run */
    const int64_t distance = columns > 1 ? across[1] - across[0] : 0;
    const int64_t together = distance < NEAR && distance > -NEAR ? 1 : pieces;
    for (int64_t piece = 0; piece < pieces; piece += together)
        for (int64_t i = 0; i < vectors; i++)
            for (int64_t k = piece; k < piece + together; k++) {
                const int64_t first = runs[k], run = runs[k + 1] - first;
                const int64_t at = along[order[first]];
                if (run < FEW) {
                    NAME(gather_columns)(vector + i, from + at, order + first, run);
                    continue;
                }
                const NAME(Columns) *next = vector + least(i + 1, vectors - 1);
                for (int64_t j = 0; j < next->count; j++)
                    __builtin_prefetch(from + at + next->across[j]);
                NAME(transpose_columns)(
                    vector + i, from + at, order + first, run,
                    run == NAME(LANES) || at + vector[i].furthest + NAME(LANES) - 1 <= highest);
            }
}

/* The rows of tiles, ROWS beside each other. */
static void NAME(pack_left)(SCALAR *to, const SCALAR *from, const int64_t *down,
                            const int *heights, int64_t tiles, const int64_t *along,
                            int64_t depth) {
    for (int64_t i = 0; i < tiles; down += heights[i++]) {
        SCALAR *tile = to + i * depth * ROWS;
        int whole = heights[i] == ROWS;
        for (int k = 1; k < heights[i]; k++) whole &= down[k] == down[0] + k;
        if (whole)
            for (int64_t l = 0; l < depth; l++)
                __builtin_memcpy(tile + l * ROWS, from + down[0] + along[l],
                                 ROWS * sizeof(SCALAR));
        else
            for (int64_t l = 0; l < depth; l++)
                for (int k = 0; k < heights[i]; k++)
                    tile[l * ROWS + k] = from[down[k] + along[l]];
    }
}

/* Whether a number of vectors has neither infinities nor NaNs. */
static int NAME(is_finite)(const SCALAR *from, int64_t vectors) {
    const NAME(lanes) *const x = (const NAME(lanes) *)from;
    NAME(lanes) zero[4] = {{0}};
    SCALAR sum = 0;
    for (int64_t i = 0; i < vectors; i += 4)
#pragma GCC unroll 4
        for (int64_t k = 0; k < 4; k++) zero[k] += x[least(i + k, vectors - 1)] * 0;
    for (int k = 0; k < 4; k++)
        for (int j = 0; j < NAME(LANES); j++) sum += zero[k][j];
    return sum == 0;
}

/* Whether panels of all of the right operand fit into the memory of one. */
static int NAME(is_resident)(const FlamecProduct *p) {
    const int64_t columns = (p->columns + NAME(LANES) - 1) / NAME(LANES) * NAME(LANES);
    return columns <= MOST_VECTORS * NAME(LANES) &&
           columns * p->depth <= MOST_VECTORS * NAME(LANES) * DEPTH;
}

/* A product whose right operand is copied, with FLAMEC_PRODUCT_MEMORY bytes of private memory;
 * `packed_before`: for other rows of the same product, so that what is resident is there. */
static __attribute__((noinline)) void NAME(packed_product)(const FlamecProduct *p, void *memory,
                                                           int packed_before) {
    enum { MOST = COLUMNS * sizeof(float) / sizeof(SCALAR) };
    const SCALAR *left = p->left.data, *right = p->right.data;
    SCALAR *result = p->result;
    SCALAR *panel = (SCALAR *)(((uintptr_t)memory + 63) & ~(uintptr_t)63);
    SCALAR *packed = panel + MOST * DEPTH;
    const int packs = is_packed(&p->left, sizeof(SCALAR));
    const int resident = NAME(is_resident)(p);
    int64_t across[MOST], along_left[DEPTH], along_right[DEPTH], even[DEPTH];
    int order[DEPTH];
    Step steps[DEPTH];
    Kinds kinds;
    Tiles tiles;
    find_kinds(&kinds, p);
    tiles.rows = -1;
    for (int64_t l = 0; packs && l < DEPTH; l++) even[l] = l * ROWS;
    for (int64_t i = 0; !p->depth && i < p->rows; i++)
        for (int64_t j = 0; j < p->columns; j++) result[i * p->step + j] = 0;
    for (int64_t level = 0; level < p->depth; level += DEPTH) {
        const int64_t depth = least(DEPTH, p->depth - level);
        int64_t height = CHUNK;
        if (packs) { /* the last tiles of a kind may be low */
            const int64_t most = PACKED / depth / ROWS;
            if (2 * kinds.count > most) kinds.count = 1, kinds.borders = 0;
            height = least(CHUNK, (kinds.count > 1 ? most - kinds.count : most) * ROWS);
        }
        places(along_left, &p->left.depth, level, depth);
        if (!resident || !packed_before) {
            places(along_right, &p->right.depth, level, depth);
            sort(order, along_right, depth);
        }
        for (int64_t column = 0; column < p->columns; column += MOST) {
            const int64_t columns = least(MOST, p->columns - column);
            if (!resident || !packed_before) {
                places(across, &p->right.free, p->first_column + column, columns);
                NAME(pack_right)(panel, right, across, columns, along_right, order, depth);
            }
            const int64_t vectors = (columns + NAME(LANES) - 1) / NAME(LANES) * depth;
            const int all = kinds.borders && !NAME(is_finite)(panel, vectors);
            for (int64_t chunk = 0; chunk < p->rows; chunk += height) {
                const int64_t rows = least(height, p->rows - chunk);
                arrange(&tiles, &kinds, p, p->first_row + chunk, rows);
                if (packs && (!column || p->rows > height)) /* else it is there from before */
                    NAME(pack_left)(packed, left, tiles.down, tiles.heights, tiles.count,
                                    along_left, depth);
                int64_t number = 0;
                for (int64_t i = 0, row = 0; i < tiles.count; row += tiles.heights[i++]) {
                    const SCALAR *at[ROWS];
                    SCALAR *to[ROWS];
                    if (!i || tiles.kind[i] != tiles.kind[i - 1])
                        number = steps_of(steps, &kinds, p, tiles.kind[i],
                                          packs ? even : along_left, level, depth, all);
                    for (int k = 0; k < tiles.heights[i]; k++) {
                        at[k] = packs ? packed + i * depth * ROWS + k : left + tiles.down[row + k];
                        to[k] = result + (chunk + tiles.order[row + k]) * p->step + column;
                    }
                    const int64_t soon = least(row + LINE / sizeof(SCALAR), rows - 1);
                    NAME(row_of_tiles)(at, tiles.heights[i], steps, number, depth, panel, columns,
                                       to, level > 0, packs ? at[0] : left + tiles.down[soon]);
                }
            }
        }
        if (resident) panel += (p->columns + NAME(LANES) - 1) / NAME(LANES) * NAME(LANES) * depth;
    }
}
