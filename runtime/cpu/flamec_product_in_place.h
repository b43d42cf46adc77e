/* The part of a product whose right operand is read where it lies, for the numbers of
 * flamec_product_loops.h, and what divides a product into the two.
 *
 * In: columns that are runs of neighbours, such as the places along a row of an image with its
 * channels first, and few rows, such as the outputs of a group. Out: the same bits as by a panel. */

/* One tile of count rows: rows[i][along_left[l]] times the vectors at[j] + along_right[l]. */
FLAMEC_INLINE void NAME(tile_in_place)(const int count, const SCALAR *const *rows,
                                       const int64_t *along_left, const SCALAR *const *at,
                                       const int64_t *along_right, int64_t depth,
                                       SCALAR *const *to, int64_t first, int64_t step) {
    const SCALAR *row[ROWS], *column[VECTORS];
    NAME(lanes) sum[ROWS][VECTORS], total[ROWS][VECTORS];
#pragma GCC unroll 8
    for (int j = 0; j < VECTORS; j++) column[j] = at[j];
#pragma GCC unroll 8
    for (int i = 0; i < count; i++) {
        row[i] = rows[i];
#pragma GCC unroll 8
        for (int j = 0; j < VECTORS; j++) total[i][j] = sum[i][j] = (NAME(lanes)){0};
    }
    for (int64_t level = 0; level < depth; level += DEPTH) {
        const int64_t end = least(depth, level + DEPTH);
        for (int64_t l = level; l < end; l++) {
            const int64_t at_left = along_left[l], at_right = along_right[l];
            NAME(lanes) y[VECTORS];
#pragma GCC unroll 8
            for (int j = 0; j < VECTORS; j++)
                y[j] = *(const NAME(unaligned) *)(column[j] + at_right);
#pragma GCC unroll 8
            for (int i = 0; i < count; i++) {
                const NAME(lanes) x = row[i][at_left] - (NAME(lanes)){0};
#pragma GCC unroll 8
                for (int j = 0; j < VECTORS; j++)
                    sum[i][j] = NAME(MULTIPLY_ADD)(x, y[j], sum[i][j]);
            }
        }
        if (depth <= DEPTH) break;
#pragma GCC unroll 8
        for (int i = 0; i < count; i++)
#pragma GCC unroll 8
            for (int j = 0; j < VECTORS; j++) {
                total[i][j] = level ? total[i][j] + sum[i][j] : sum[i][j];
                sum[i][j] = end < depth ? (NAME(lanes)){0} : total[i][j];
            }
    }
#pragma GCC unroll 8
    for (int j = 0; j < VECTORS; j++)
#pragma GCC unroll 8
        for (int i = 0; i < count; i++)
            *(NAME(unaligned) *)(to[j] + first + i * step) = sum[i][j];
}

#define TILE(count)                                                                        \
    static __attribute__((noinline)) void NAME(tile_in_place_##count)(                     \
        const SCALAR *const *rows, const int64_t *along_left, const SCALAR *const *at,     \
        const int64_t *along_right, int64_t depth, SCALAR *const *to, int64_t first,       \
        int64_t step) {                                                                    \
        NAME(tile_in_place)(count, rows, along_left, at, along_right, depth, to, first, step); \
    }
TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6)
typedef void (*NAME(TileInPlace))(const SCALAR *const *, const int64_t *, const SCALAR *const *,
                                  const int64_t *, int64_t, SCALAR *const *, int64_t, int64_t);
static const NAME(TileInPlace) NAME(tiles_in_place)[ROWS] = {
    NAME(tile_in_place_1), NAME(tile_in_place_2), NAME(tile_in_place_3),
    NAME(tile_in_place_4), NAME(tile_in_place_5), NAME(tile_in_place_6)};
#undef TILE

/* How many columns, from the first one on, are runs of neighbours long enough for vectors that are
 * read where they lie: they are worth it where no panel of them would be used often. */
static int64_t NAME(columns_in_place)(const FlamecProduct *p) {
    const FlamecLoops *free = &p->right.free;
    const int64_t last = free->count - 1, run = last < 0 ? 0 : free->size[last];
    if (run < NAME(LANES) || free->stride[last] != 1 || p->first_column % run) return 0;
    if (p->rows > FEW_ROWS || p->depth > LEVELS * DEPTH) return 0;
    if (!p->rows || !p->depth) return 0;
    const int64_t filled = (run + NAME(LANES) - 1) / NAME(LANES) * NAME(LANES);
    return p->rows * (filled - run) > COPYING * run ? 0 : p->columns / run * run;
}

/* Tiles of rows and of vectors of columns that are read where they lie. The last vector of a run
 * ends with it, and so has some columns in common with the one before: they are the same twice. */
static void NAME(product_in_place)(const FlamecProduct *p, int64_t columns) {
    const SCALAR *left = p->left.data, *right = p->right.data;
    FlamecLoops outer = p->right.free;
    const int64_t run = outer.size[--outer.count], each = (run + NAME(LANES) - 1) / NAME(LANES);
    int64_t down[FEW_ROWS], start[RUNS];
    int64_t along_left[LEVELS * DEPTH], along_right[LEVELS * DEPTH];
    int heights[FEW_ROWS];
    places(down, &p->left.free, p->first_row, p->rows);
    places(along_left, &p->left.depth, 0, p->depth);
    places(along_right, &p->right.depth, 0, p->depth);
    const int64_t tiles = divide(heights, p->rows);
    for (int64_t first = 0; first < columns / run; first += RUNS) {
        const int64_t runs = least(RUNS, columns / run - first), vectors = runs * each;
        places(start, &outer, p->first_column / run + first, runs);
        for (int64_t v = 0; v < vectors; v += VECTORS) {
            const SCALAR *at[VECTORS];
            SCALAR *to[VECTORS];
            for (int j = 0; j < VECTORS; j++) {
                const int64_t number = least(v + j, vectors - 1), from = number / each;
                const int64_t inside = least(number % each * NAME(LANES), run - NAME(LANES));
                at[j] = right + start[from] + inside;
                to[j] = (SCALAR *)p->result + (first + from) * run + inside;
            }
            for (int64_t i = 0, row = 0; i < tiles; row += heights[i++]) {
                const SCALAR *rows[ROWS];
                for (int k = 0; k < heights[i]; k++) rows[k] = left + down[row + k];
                NAME(tiles_in_place)[heights[i] - 1](rows, along_left, at, along_right, p->depth, to,
                                                     row * p->step, p->step);
            }
        }
    }
}

/* Some rows and columns of a product, with FLAMEC_PRODUCT_MEMORY bytes of private memory. */
void NAME(flamec_product)(const FlamecProduct *asked, void *memory) {
    if (asked->run) {
        NAME(product_of_runs)(asked, memory);
        return;
    }
    const int64_t in_place = asked->step ? NAME(columns_in_place)(asked) : 0;
    FlamecProduct rest = *asked;
    if (in_place) NAME(product_in_place)(asked, in_place);
    rest.first_column += in_place;
    rest.columns -= in_place;
    if (asked->step) rest.result = (SCALAR *)asked->result + in_place;
    if (rest.columns) NAME(product_in_chunks)(&rest, memory);
}
