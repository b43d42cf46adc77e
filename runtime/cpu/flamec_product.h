/* Matrix products of operands that need not be matrices in memory, of float32 or float64:
 * FLAMEC_PRODUCT says how many bits a number has. A file for each, because few programs need both,
 * and compiling one takes as long as compiling a program.
 *
 * In: for each operand the loops (size, stride) along its free and its contracted dimension, as many
 * as it takes, so that the windows of a convolution, or its kernel as it is stored, are operands
 * like any other. Out: rows and columns of the product, row-major. The right operand is copied
 * panel by panel (some depth, some columns) into the order in which it is consumed; the left one is
 * read where it lies, through a table of places along the depth, or is copied ROWS rows at a time
 * where that reads too many lines. Where it is known to be 0 it is not multiplied
 * (flamec_product_borders.h), and results need not be row-major (flamec_product_apart.h).
 *
 * Invariant: an element is the sum over the depth in order, in blocks of DEPTH of which each is
 * summed before it is added to the others. So its bits depend on neither the rows and
 * columns that are asked for together nor on the number of threads.
 *
 * The loops are those of Goto and van de Geijn 2008, "Anatomy of High-Performance Matrix
 * Multiplication", figure 8; to read windows through a table of places is from Dukhan 2019,
 * "The Indirect Convolution Algorithm". */
#ifndef __clang__
#pragma GCC optimize("O2") /* vectors and unrolling are spelled out: more takes half as long again */
#endif
#define FLAMEC_NATIVE_LANES
#include "flamec_vector.h"

typedef __UINTPTR_TYPE__ uintptr_t;

enum {
    ROWS = 6,      /* of a tile, whose sums stay in registers */
    DEPTH = 216,   /* of a panel, and of a sum; a multiple of 8, 9 and 27 */
    COLUMNS = 256, /* of a panel of float32; of float64 half as many */
    CHUNK = 792,   /* rows whose places are computed together */
    PACKED = 256 * DEPTH, /* elements of the left operand that are copied together */
    PANELS_MEMORY = 648 << 10, /* bytes of both, */
    SUMS = 800 << 10,          /* and of results that are transposed when they are done */
    MOST_VECTORS = COLUMNS * sizeof(float) / FLAMEC_REGISTER,
    MOST_PIECES = 3, /* of neighbours, of which a vector of columns is put together */
    FEW = 4,       /* neighbours along the depth from which on transposing pays */
    NEAR = 64,     /* distance of columns that share pages */
    FEW_ROWS = 64, /* up to which columns are read where they lie, without a panel, */
    LEVELS = 5,    /* for sums of so many blocks */
    COPYING = 5,   /* products in whose time a vector is copied to a panel */
    RUNS = 64,     /* of columns in place, of which tables are made together */
    MOST_ROWS_OF_RUNS = 64, /* of a product along runs, */
    MOST_COLUMNS_OF_RUNS = 576,
    MOST_SUMS = 9216, /* and of its tiles' sums, a vector each */
    FAR = 2048,    /* bytes between rows from which on their copies are read */
    LINE = 64,     /* bytes of a line of a cache, */
    WAY = 4096,    /* and of a line for each of its sets */
};
#if FLAMEC_REGISTER == 64 || defined(__aarch64__)
#define VECTORS 4 /* of a tile, where there are 32 registers */
#else
#define VECTORS 2
#endif

_Static_assert(COLUMNS * DEPTH * sizeof(float) + PACKED * sizeof(double) <= PANELS_MEMORY &&
                   PANELS_MEMORY + 64 <= FLAMEC_PANELS_MEMORY,
               "the panels must fit");
_Static_assert(PANELS_MEMORY + SUMS + 64 <= FLAMEC_PRODUCT_MEMORY, "the sums must fit");
_Static_assert(MOST_SUMS * FLAMEC_REGISTER + 64 <= FLAMEC_PANELS_MEMORY, "the sums must fit");
_Static_assert(CHUNK % ROWS == 0, "a chunk has whole tiles");

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* The places of `count` indices from `first` on. */
static void places(int64_t *to, const FlamecLoops *loops, int64_t first, int64_t count) {
    int64_t index[FLAMEC_MOST_LOOPS], at = 0;
    const int last = (int)loops->count - 1;
    for (int i = last; i >= 0; i--) {
        const int64_t next = i ? first / loops->size[i] : 0;
        index[i] = first - next * loops->size[i];
        at += index[i] * loops->stride[i];
        first = next;
    }
    if (last < 0)
        for (int64_t n = 0; n < count; n++) to[n] = 0;
    else
        for (int64_t n = 0; n < count;) {
            const int64_t stride = loops->stride[last];
            const int64_t more = least(count - n, loops->size[last] - index[last]);
            for (int64_t i = 0; i < more; i++) to[n + i] = at + i * stride;
            n += more;
            at -= index[last] * stride;
            index[last] = 0;
            for (int i = last - 1; i >= 0; i--) {
                at += loops->stride[i];
                if (++index[i] < loops->size[i]) break;
                at -= loops->size[i] * loops->stride[i];
                index[i] = 0;
            }
        }
}

/* The indices of places in the order of the places. */
static void sort(int *order, const int64_t *place, int64_t count) {
    int other[DEPTH], *from = order, *to = other, sorted = 1;
    for (int64_t i = 0; i < count; i++) from[i] = (int)i;
    for (int64_t i = 1; i < count; i++) sorted &= place[i - 1] <= place[i];
    if (sorted) return; /* as mostly */
    for (int64_t run = 1; run < count; run *= 2) {
        for (int64_t first = 0; first < count; first += 2 * run) {
            const int64_t middle = least(first + run, count), end = least(middle + run, count);
            int64_t a = first, b = middle;
            for (int64_t i = first; i < end; i++)
                to[i] = b >= end || (a < middle && place[from[a]] <= place[from[b]]) ? from[a++]
                                                                                     : from[b++];
        }
        int *kept = from;
        from = to;
        to = kept;
    }
    if (from != order)
        for (int64_t i = 0; i < count; i++) order[i] = from[i];
}

/* The heights of tiles: they differ by one at most, because low ones are slow. */
static int64_t divide(int *heights, int64_t rows) {
    const int64_t tiles = (rows + ROWS - 1) / ROWS;
    for (int64_t i = 0; i < tiles; i++)
        heights[i] = (int)((i + 1) * rows / tiles - i * rows / tiles);
    return tiles;
}

static int steps_by_one(const FlamecLoops *loops) {
    for (int64_t i = 0; i < loops->count; i++)
        if (loops->size[i] > 1 && loops->stride[i] == 1) return 1;
    return 0;
}

/* Whether rows are so far apart that what a tile reads of them, in several runs each, falls into
 * too few sets of the nearest cache: unless they were laid a line more than that apart. */
static int collides(const FlamecOperand *operand, int64_t size) {
    const FlamecLoops *rows = &operand->free;
    if (!rows->count || operand->depth.count < 2) return 0;
    const int64_t stride = rows->stride[rows->count - 1];
    const int64_t apart = (stride < 0 ? -stride : stride) * size;
    return apart >= FAR && apart % FAR != LINE;
}

/* Whether a left operand is copied: unless what a tile reads of it is neighbours, along the depth or
 * along the rows, of which the lines that are read one after the other do not fall into one set of
 * the nearest cache. */
static int is_packed(const FlamecOperand *operand, int64_t size) {
    const FlamecLoops *depth = &operand->depth;
    if (collides(operand, size)) return 1;
    if (steps_by_one(depth)) return 0;
    return !steps_by_one(&operand->free) || !depth->count ||
           depth->stride[depth->count - 1] * size % WAY == 0;
}

#include "flamec_product_borders.h"

#ifdef FLAMEC_SHUFFLES
#define INDICES_2(f, s, w) f(0, s, w), f(1, s, w)
#define INDICES_4(f, s, w) INDICES_2(f, s, w), f(2, s, w), f(3, s, w)
#define INDICES_8(f, s, w) \
    INDICES_4(f, s, w), f(4, s, w), f(5, s, w), f(6, s, w), f(7, s, w)
#define INDICES_16(f, s, w)                                                                \
    INDICES_8(f, s, w), f(8, s, w), f(9, s, w), f(10, s, w), f(11, s, w), f(12, s, w),     \
        f(13, s, w), f(14, s, w), f(15, s, w)
#define LOWER(i, s, w) ((i) & (s) ? (w) + (i) - (s) : (i))
#define SECOND(i, s, w) ((i) < (w) / 2 ? 2 * (i) : 2 * (i) + 1)
#define UPPER(i, s, w) ((i) & (s) ? (w) + (i) : ((i) + (s)) % (w))
#define EXCHANGE(x, type, w, s)                                                            \
    if (s < w)                                                                             \
        _Pragma("GCC unroll 16") for (int i = 0; i < w; i++) if (!(i & s)) {               \
            const type a = x[i], b = x[i | s];                                             \
            x[i] = __builtin_shufflevector(a, b, INDICES(LOWER, s, w));                    \
            x[i | s] = __builtin_shufflevector(a, b, INDICES(UPPER, s, w));                \
        }
#else
#define EXCHANGE(x, type, w, s)                                                            \
    if (s == 1)                                                                            \
        for (int i = 0; i < w; i++)                                                        \
            for (int j = 0; j < i; j++) {                                                  \
                const SCALAR kept = x[i][j];                                               \
                x[i][j] = x[j][i];                                                         \
                x[j][i] = kept;                                                            \
            }
#endif

/* x y + sum, rounded once, where the machine can. Spelled out: a compiler that is left the choice may
 * avoid it in the loops of some tiles and not of others (gcc 13 for recent processors), and bits would
 * depend on the heights of tiles. */
#if defined(__FMA__) && !defined(__clang__) /* the header would take longer than the rest of the file */
#if FLAMEC_REGISTER == 64
#define MULTIPLY_ADD_f32(x, y, sum) __builtin_ia32_vfmaddps512_mask(x, y, sum, -1, 4)
#define MULTIPLY_ADD_f64(x, y, sum) __builtin_ia32_vfmaddpd512_mask(x, y, sum, -1, 4)
#else
#define MULTIPLY_ADD_f32(x, y, sum) __builtin_ia32_vfmaddps256(x, y, sum)
#define MULTIPLY_ADD_f64(x, y, sum) __builtin_ia32_vfmaddpd256(x, y, sum)
#endif
#elif defined(__FMA__)
#include <immintrin.h>
#if FLAMEC_REGISTER == 64
#define MULTIPLY_ADD_f32(x, y, sum) ((lanes_f32)_mm512_fmadd_ps((__m512)(x), (__m512)(y), (__m512)(sum)))
#define MULTIPLY_ADD_f64(x, y, sum) ((lanes_f64)_mm512_fmadd_pd((__m512d)(x), (__m512d)(y), (__m512d)(sum)))
#else
#define MULTIPLY_ADD_f32(x, y, sum) ((lanes_f32)_mm256_fmadd_ps((__m256)(x), (__m256)(y), (__m256)(sum)))
#define MULTIPLY_ADD_f64(x, y, sum) ((lanes_f64)_mm256_fmadd_pd((__m256d)(x), (__m256d)(y), (__m256d)(sum)))
#endif
#elif defined(__ARM_NEON) && defined(__aarch64__)
#include <arm_neon.h>
#define MULTIPLY_ADD_f32(x, y, sum) \
    ((lanes_f32)vfmaq_f32((float32x4_t)(sum), (float32x4_t)(x), (float32x4_t)(y)))
#define MULTIPLY_ADD_f64(x, y, sum) \
    ((lanes_f64)vfmaq_f64((float64x2_t)(sum), (float64x2_t)(x), (float64x2_t)(y)))
#else
#define MULTIPLY_ADD_f32(x, y, sum) ((sum) + (x) * (y))
#define MULTIPLY_ADD_f64(x, y, sum) ((sum) + (x) * (y))
#endif

#if FLAMEC_PRODUCT == 32
#define SCALAR c_f32
#define BITS int32_t
#define NAME(x) x##_f32
#else
#define SCALAR c_f64
#define BITS int64_t
#define NAME(x) x##_f64
#endif
#if FLAMEC_REGISTER * 8 == 16 * FLAMEC_PRODUCT
#define INDICES INDICES_16
#elif FLAMEC_REGISTER * 8 == 8 * FLAMEC_PRODUCT
#define INDICES INDICES_8
#elif FLAMEC_REGISTER * 8 == 4 * FLAMEC_PRODUCT
#define INDICES INDICES_4
#else
#define INDICES INDICES_2
#endif
#include "flamec_product_loops.h"
#include "flamec_product_apart.h"
#include "flamec_product_of_runs.h"
#include "flamec_product_in_place.h"
