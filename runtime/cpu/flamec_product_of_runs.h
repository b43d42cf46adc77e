/* Products along runs of neighbours of both operands, for the numbers of flamec_product_loops.h: the
 * lanes are along the depth.
 *
 * In: few rows and columns of great depth, such as the gradient of a kernel in groups, whose sums are
 * over the rows of an image and of its gradient with channels first. Nothing is copied. Out: an
 * element is the sum of its lanes, which sum the runs in order, RUNS of them before they are added
 * to the others. */

#if VECTORS == 4
#define DOWN 4 /* of a tile of sums, which stay in registers */
#define ACROSS 6
#else
#define DOWN 3
#define ACROSS 4
#endif

/* One tile: the sums of some runs of all rows times all columns, added to `to`. */
static __attribute__((noinline)) void NAME(tile_of_runs)(
    const SCALAR *const *rows, const SCALAR *const *columns, const int64_t *along_left,
    const int64_t *along_right, int64_t runs, int64_t run, NAME(lanes) *to, int more) {
    NAME(lanes) sum[DOWN][ACROSS], x[DOWN];
    const int64_t rest = run % NAME(LANES);
    NAME(bits) mask; /* of the lanes of the last vector that are in no other */
    for (int64_t k = 0; k < NAME(LANES); k++) mask[k] = k < NAME(LANES) - rest ? 0 : -1;
#pragma GCC unroll 8
    for (int i = 0; i < DOWN; i++)
#pragma GCC unroll 8
        for (int j = 0; j < ACROSS; j++) sum[i][j] = (NAME(lanes)){0};
    for (int64_t r = 0; r < runs; r++) {
        const SCALAR *row[DOWN], *column[ACROSS];
#pragma GCC unroll 8
        for (int i = 0; i < DOWN; i++) row[i] = rows[i] + along_left[r];
#pragma GCC unroll 8
        for (int j = 0; j < ACROSS; j++) column[j] = columns[j] + along_right[r];
        for (int64_t l = 0; l + NAME(LANES) <= run; l += NAME(LANES)) {
#pragma GCC unroll 8
            for (int i = 0; i < DOWN; i++) x[i] = *(const NAME(unaligned) *)(row[i] + l);
#pragma GCC unroll 8
            for (int j = 0; j < ACROSS; j++) {
                const NAME(lanes) y = *(const NAME(unaligned) *)(column[j] + l);
#pragma GCC unroll 8
                for (int i = 0; i < DOWN; i++)
                    sum[i][j] = NAME(MULTIPLY_ADD)(x[i], y, sum[i][j]);
            }
        }
        if (!rest) continue;
        const int64_t l = run - NAME(LANES);
#pragma GCC unroll 8
        for (int i = 0; i < DOWN; i++)
            x[i] = (NAME(lanes))((NAME(bits))*(const NAME(unaligned) *)(row[i] + l) & mask);
#pragma GCC unroll 8
        for (int j = 0; j < ACROSS; j++) {
            const NAME(lanes) y =
                (NAME(lanes))((NAME(bits))*(const NAME(unaligned) *)(column[j] + l) & mask);
#pragma GCC unroll 8
            for (int i = 0; i < DOWN; i++) sum[i][j] = NAME(MULTIPLY_ADD)(x[i], y, sum[i][j]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < DOWN; i++)
#pragma GCC unroll 8
        for (int j = 0; j < ACROSS; j++)
            to[i * ACROSS + j] = more ? to[i * ACROSS + j] + sum[i][j] : sum[i][j];
}

/* The sum of all lanes, halves first. */
static SCALAR NAME(sum_of_lanes)(const NAME(lanes) *from) {
    SCALAR lane[NAME(LANES)];
    __builtin_memcpy(lane, from, sizeof(lane));
    for (int64_t half = NAME(LANES) / 2; half; half /= 2)
        for (int64_t k = 0; k < half; k++) lane[k] += lane[k + half];
    return lane[0];
}

/* Tiles repeat the last row and the last column where there are too few. */
static void NAME(product_of_runs)(const FlamecProduct *p, void *memory) {
    const SCALAR *left = p->left.data, *right = p->right.data;
    NAME(lanes) *sums = (NAME(lanes) *)(((uintptr_t)memory + 63) & ~(uintptr_t)63);
    FlamecLoops outer_left = p->left.depth, outer_right = p->right.depth;
    const int64_t run = p->run, runs = p->depth / run, last = outer_left.count - 1;
    outer_left.size[last] /= run;
    outer_left.stride[last] = run;
    outer_right.count--;
    int64_t down[MOST_ROWS_OF_RUNS], across[MOST_COLUMNS_OF_RUNS];
    int64_t along_left[RUNS], along_right[RUNS];
    if (!p->rows || !p->columns) return;
    places(down, &p->left.free, p->first_row, p->rows);
    places(across, &p->right.free, p->first_column, p->columns);
    for (int64_t first = 0; first < runs; first += RUNS) {
        const int64_t count = least(RUNS, runs - first);
        places(along_left, &outer_left, first, count);
        places(along_right, &outer_right, first, count);
        NAME(lanes) *to = sums;
        for (int64_t i = 0; i < p->rows; i += DOWN)
            for (int64_t j = 0; j < p->columns; j += ACROSS, to += DOWN * ACROSS) {
                const SCALAR *rows[DOWN], *columns[ACROSS];
                for (int64_t k = 0; k < DOWN; k++) rows[k] = left + down[least(i + k, p->rows - 1)];
                for (int64_t k = 0; k < ACROSS; k++)
                    columns[k] = right + across[least(j + k, p->columns - 1)];
                NAME(tile_of_runs)(rows, columns, along_left, along_right, count, run, to, first > 0);
            }
    }
    const int64_t tiles = (p->columns + ACROSS - 1) / ACROSS;
    for (int64_t i = 0; i < p->rows; i++)
        for (int64_t j = 0; j < p->columns; j++) {
            const int64_t tile = i / DOWN * tiles + j / ACROSS;
            const int64_t inside = i % DOWN * ACROSS + j % ACROSS;
            ((SCALAR *)p->result)[i * p->step + j] =
                runs ? NAME(sum_of_lanes)(sums + tile * DOWN * ACROSS + inside) : 0;
        }
}
