/* Blocks of an array whose rows become columns, in registers.
 *
 * In: elements of 8, 16, 32 or 64 bits. Out: flamec_transpose_{bits}(to, width, from, stride, rows, columns),
 * which writes element (r, c) of an array whose rows are `stride` elements apart to place (c, r) of a
 * block whose rows are `width` apart, which is flamec_block_width(rows) or more. Invariant: nothing but
 * elements of the array is read; of the block, rows up to the next multiple of FLAMEC_LANES may be
 * written as far as they go. flamec_transpose_back_{bits}(to, stride, from, rows, columns) writes element
 * (c, r) of a block of FLAMEC_LANES such rows to place (r, c) of an array, and nothing else to it. */
#ifndef FLAMEC_VECTOR_TRANSPOSE_H
#define FLAMEC_VECTOR_TRANSPOSE_H

enum { FLAMEC_BLOCK_WIDTH = 32, FLAMEC_BLOCK = FLAMEC_BLOCK_WIDTH * FLAMEC_BLOCK_WIDTH };

/* Short rows lie closer together, and so a block has more of them. */
FLAMEC_INLINE int64_t flamec_block_width(int64_t length) {
    if (2 * length > FLAMEC_LANES) return length > FLAMEC_LANES ? FLAMEC_BLOCK_WIDTH : FLAMEC_LANES;
    return 4 * length > FLAMEC_LANES ? FLAMEC_LANES / 2 : FLAMEC_LANES / 4;
}

/* Elements of a row from which blocks are worth it, where `enough` are with masked memory: without it,
 * the parts of a block are copied in powers of two. */
FLAMEC_INLINE int64_t flamec_enough(int64_t enough) {
#ifdef FLAMEC_MASKED_MEMORY
    return enough;
#else
    return enough > 2 * FLAMEC_LANES ? enough : 2 * FLAMEC_LANES;
#endif
}

#define FLAMEC_ZIP_LOW_2 0, 2
#define FLAMEC_ZIP_HIGH_2 1, 3
#define FLAMEC_ZIP_LOW_4 0, 4, 1, 5
#define FLAMEC_ZIP_HIGH_4 2, 6, 3, 7
#define FLAMEC_ZIP_LOW_8 0, 8, 1, 9, 2, 10, 3, 11
#define FLAMEC_ZIP_HIGH_8 4, 12, 5, 13, 6, 14, 7, 15
#define FLAMEC_ZIP_LOW_16 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define FLAMEC_ZIP_HIGH_16 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31

/* Half of `most` registers zipped with the other half, log2(most) times, hold the first elements of all
 * rows, then the second ones, and so on. n: elements of a register, at least as many as `most`. */
#ifdef FLAMEC_SHUFFLES
#define FLAMEC_TRANSPOSE_BLOCK(bits, t, n)                                                 \
    FLAMEC_INLINE void flamec_zip_##bits(n_##t *x, int most) {                             \
        n_##t y[n];                                                                        \
        _Pragma("GCC unroll 16") for (int i = 0; i < most / 2; i++) {                      \
            const n_##t a = x[i], b = x[i + most / 2];                                     \
            y[2 * i] = __builtin_shufflevector(a, b, FLAMEC_ZIP_LOW_##n);                  \
            y[2 * i + 1] = __builtin_shufflevector(a, b, FLAMEC_ZIP_HIGH_##n);             \
        }                                                                                  \
        _Pragma("GCC unroll 16") for (int i = 0; i < most; i++) x[i] = y[i];               \
    }                                                                                      \
    FLAMEC_INLINE void flamec_transpose_block_##bits(c_##t *to, const c_##t *from,         \
                                                     int64_t stride, int64_t rows,         \
                                                     int64_t columns, int most, int64_t width) { \
        n_##t x[n];                                                                        \
        _Pragma("GCC unroll 16") for (int i = 0; i < most; i++) {                          \
            const parts_##t row = {flamec_load_n_##t(from, columns)};                      \
            x[i] = row.piece[0]; /* by steps: gcc would keep sixteen multiples of a stride */ \
            if (i + 1 < rows) from += stride;                                              \
            __asm__("" : "+r"(from));                                                      \
        }                                                                                  \
        if (most > 1) flamec_zip_##bits(x, most);                                          \
        if (most > 2) flamec_zip_##bits(x, most);                                          \
        if (most > 4) flamec_zip_##bits(x, most);                                          \
        if (most > 8) flamec_zip_##bits(x, most);                                          \
        _Pragma("GCC unroll 16") for (int i = 0; i < most; i++) {                          \
            __builtin_memcpy(to, &x[i], sizeof(x[i]));                                     \
            to += width == most ? n : width;                                               \
            __asm__("" : "+r"(to));                                                        \
        }                                                                                  \
    }
#define FLAMEC_TRANSPOSE_BACK(bits, t, n)                                                  \
    FLAMEC_INLINE void flamec_back_block_##bits(c_##t *to, int64_t stride, const c_##t *from, \
                                                int64_t rows, int64_t columns) {           \
        n_##t x[n];                                                                        \
        _Pragma("GCC unroll 16") for (int i = 0; i < n; i++)                               \
            __builtin_memcpy(&x[i], from + i * FLAMEC_LANES, sizeof(x[i]));                \
        if (n > 1) flamec_zip_##bits(x, n);                                                \
        if (n > 2) flamec_zip_##bits(x, n);                                                \
        if (n > 4) flamec_zip_##bits(x, n);                                                \
        if (n > 8) flamec_zip_##bits(x, n);                                                \
        _Pragma("GCC unroll 16") for (int i = 0; i < n; i++) {                             \
            parts_##t row = {vsplat_##t(0)};                                               \
            if (i >= rows) return;                                                         \
            row.piece[0] = x[i];                                                           \
            if (columns == n) __builtin_memcpy(to, &x[i], sizeof(x[i]));                   \
            else flamec_store_n_##t(to, row.whole, columns);                               \
            to += stride;                                                                  \
            __asm__("" : "+r"(to));                                                        \
        }                                                                                  \
    }
#else
#define FLAMEC_TRANSPOSE_BACK(bits, t, n)                                                  \
    FLAMEC_INLINE void flamec_back_block_##bits(c_##t *to, int64_t stride, const c_##t *from, \
                                                int64_t rows, int64_t columns) {           \
        for (int64_t r = 0; r < rows; r++)                                                 \
            for (int64_t c = 0; c < columns; c++) to[r * stride + c] = from[c * FLAMEC_LANES + r]; \
    }
#define FLAMEC_TRANSPOSE_BLOCK(bits, t, n)                                                 \
    FLAMEC_INLINE void flamec_transpose_block_##bits(c_##t *to, const c_##t *from,         \
                                                     int64_t stride, int64_t rows,         \
                                                     int64_t columns, int most, int64_t width) { \
        (void)most;                                                                        \
        for (int64_t r = 0; r < rows; r++)                                                 \
            for (int64_t c = 0; c < columns; c++) to[c * width + r] = from[r * stride + c]; \
    }
#endif

/* Rows of at most FLAMEC_DENSE elements that follow one another without gaps are as many registers, two of
 * which are a table in which elements are looked up: `at` counts them all. */
#if FLAMEC_REGISTER == 64 && FLAMEC_LANES == 16 && defined(FLAMEC_SHUFFLES) && !defined(__clang__)
enum { FLAMEC_DENSE = 8 };
/* y where at >= least, else x: as bit arithmetic it would be two instructions. */
FLAMEC_INLINE n_f32 flamec_blend_32(n_f32 x, n_f32 y, n_i32 at, int least) {
    const n_i32 bound = at - at + least;
    return __builtin_ia32_blendmps_512_mask(x, y, __builtin_ia32_cmpd512_mask(at, bound, 5, 0xffff));
}
FLAMEC_INLINE n_f64 flamec_blend_64(n_f64 x, n_f64 y, n_i64 at, int64_t least) {
    typedef long long piece __attribute__((vector_size(64)));
    const n_i64 bound = at - at + least;
    return __builtin_ia32_blendmpd_512_mask(
        x, y, __builtin_ia32_cmpq512_mask((piece)at, (piece)bound, 5, 0xff));
}
#define FLAMEC_TRANSPOSE_DENSE(bits, t, at_t, n)                                           \
    FLAMEC_INLINE n_##t flamec_look_up_##bits(const n_##t *x, int64_t count, n_##at_t at) {\
        n_##t found = __builtin_shuffle(x[0], x[1], at);                                   \
        _Pragma("GCC unroll 4") for (int i = 2; i < FLAMEC_DENSE; i += 2) {                \
            if (i >= count) break;                                                         \
            found = flamec_blend_##bits(found, __builtin_shuffle(x[i], x[i + 1], at), at, i * n); \
        }                                                                                  \
        return found;                                                                      \
    }                                                                                      \
    FLAMEC_INLINE void flamec_transpose_dense_##bits(c_##t *to, int64_t width, const c_##t *from,\
                                                      int64_t rows, int64_t columns) {     \
        n_##t x[FLAMEC_DENSE];                                                             \
        const int64_t count = rows * columns;                                              \
        _Pragma("GCC unroll 8") for (int i = 0; i < FLAMEC_DENSE; i++) {                   \
            const int64_t left = count - i * n;                                            \
            if (i >= columns && !(i & 1)) break;                                           \
            const parts_##t part = {flamec_load_n_##t(from + i * n, left < 0 ? 0 : left > n ? n : left)};\
            x[i] = part.piece[0];                                                          \
        }                                                                                  \
        parts_##at_t at = {viota_##at_t(0) * (c_##at_t)columns};                           \
        for (int64_t c = 0; c < columns; c++, to += width, at.piece[0] += 1) {             \
            const n_##t column = flamec_look_up_##bits(x, columns, at.piece[0]);           \
            __builtin_memcpy(to, &column, sizeof(column));                                 \
        }                                                                                  \
    }                                                                                      \
    FLAMEC_INLINE void flamec_back_dense_##bits(c_##t *to, const c_##t *from, int64_t rows,\
                                                 int64_t columns) {                        \
        n_##t x[FLAMEC_DENSE];                                                             \
        static const int inverses[] = {0, 65536, 32768, 21846, 16384, 13108, 10923, 9363, 8192}; \
        const c_##at_t inverse = inverses[columns], size = (c_##at_t)columns;              \
        _Pragma("GCC unroll 8") for (int i = 0; i < FLAMEC_DENSE; i++) {                   \
            if (i >= columns && !(i & 1)) break;                                           \
            __builtin_memcpy(&x[i], from + i * FLAMEC_LANES, sizeof(x[i]));                \
        }                                                                                  \
        parts_##at_t e = {viota_##at_t(0)};                                                \
        for (int64_t left = rows * columns; left > 0; left -= n, to += n, e.piece[0] += n) {\
            const n_##at_t row = e.piece[0] * inverse >> 16;                               \
            parts_##t part = {vsplat_##t(0)};                                              \
            part.piece[0] = flamec_look_up_##bits(x, columns, row + n * (e.piece[0] - row * size));\
            flamec_store_n_##t(to, part.whole, left > n ? n : left);                       \
        }                                                                                  \
    }
FLAMEC_TRANSPOSE_DENSE(32, f32, i32, 16)
FLAMEC_TRANSPOSE_DENSE(64, f64, i64, 8)
#else
enum { FLAMEC_DENSE = 0 };
#define flamec_transpose_dense_32(to, width, from, rows, columns) ((void)0)
#define flamec_transpose_dense_64 flamec_transpose_dense_32
#define flamec_back_dense_32(to, from, rows, columns) ((void)0)
#define flamec_back_dense_64 flamec_back_dense_32
#endif
/* Smaller elements have no such tables. */
#define flamec_transpose_dense_8(to, width, from, rows, columns) ((void)0)
#define flamec_transpose_dense_16 flamec_transpose_dense_8
#define flamec_back_dense_8(to, from, rows, columns) ((void)0)
#define flamec_back_dense_16 flamec_back_dense_8
/* Whether rows of so many elements of so many bits, whose beginnings are `stride` apart, are such. */
FLAMEC_INLINE int flamec_is_dense(int bits, int64_t stride, int64_t columns) {
    return bits >= 32 && stride == columns && columns > 1 && columns <= FLAMEC_DENSE;
}

/* Strips of at most `most` rows; one function for each, because all that several need would not fit
 * into registers. */
#define FLAMEC_TRANSPOSE_STRIP(name, t, n, most, bits)                                     \
    FLAMEC_OUTLINE void name(c_##t *to, int64_t width, const c_##t *from, int64_t stride,  \
                             int64_t rows, int64_t columns) {                              \
        for (int64_t c = 0; c < columns; c += n, from += n, to += n * width)               \
            flamec_transpose_block_##bits(to, from, stride, rows,                          \
                                          columns - c < n ? columns - c : n, most, width); \
    }
#define FLAMEC_TRANSPOSE(bits, t, n)                                                       \
    FLAMEC_TRANSPOSE_BLOCK(bits, t, n)                                                     \
    FLAMEC_TRANSPOSE_STRIP(flamec_transpose_quarter_##bits, t, n, FLAMEC_LANES / 4, bits)  \
    FLAMEC_TRANSPOSE_STRIP(flamec_transpose_half_##bits, t, n, FLAMEC_LANES / 2, bits)     \
    FLAMEC_TRANSPOSE_STRIP(flamec_transpose_part_##bits, t, n, n, bits)                    \
    FLAMEC_OUTLINE void flamec_transpose_few_##bits(c_##t *to, int64_t width, const c_##t *from, \
                                                    int64_t stride, int64_t rows, int64_t columns) { \
        for (int64_t r = 0; r < rows; r++)                                                 \
            for (int64_t c = 0; c < columns; c++) to[c * width + r] = from[r * stride + c]; \
    }                                                                                      \
    FLAMEC_OUTLINE void flamec_transpose_long_##bits(c_##t *to, int64_t width, const c_##t *from, \
                                                     int64_t stride, int64_t rows, int64_t columns) { \
        int64_t c = 0;                                                                     \
        for (; c + n <= columns; c += n, from += n, to += n * width)                       \
            flamec_transpose_block_##bits(to, from, stride, n, n, n, width);               \
        if (c < columns) flamec_transpose_part_##bits(to, width, from, stride, rows, columns - c); \
    }                                                                                      \
    FLAMEC_INLINE void flamec_transpose_##bits(void *target, int64_t width, const void *source, \
                                               int64_t stride, int64_t rows, int64_t columns) { \
        c_##t *to = (c_##t *)target;                                                       \
        const c_##t *from = (const c_##t *)source;                                         \
        if (width == FLAMEC_LANES / 4)                                                     \
            flamec_transpose_quarter_##bits(to, width, from, stride, rows, columns);       \
        else if (width == FLAMEC_LANES / 2)                                                \
            flamec_transpose_half_##bits(to, width, from, stride, rows, columns);          \
        else                                                                               \
            for (; rows > 0; rows -= n, to += n, from += n * stride)                       \
                if (flamec_is_dense(bits, stride, columns))                                \
                    flamec_transpose_dense_##bits(to, width, from, rows < n ? rows : n, columns); \
                else if (rows >= n)                                                        \
                    flamec_transpose_long_##bits(to, width, from, stride, n, columns);     \
                else if (8 * rows > n)                                                     \
                    flamec_transpose_part_##bits(to, width, from, stride, rows, columns);  \
                else                                                                       \
                    flamec_transpose_few_##bits(to, width, from, stride, rows, columns);   \
    }
#define FLAMEC_TRANSPOSES(bits, t, n)                                                      \
    FLAMEC_TRANSPOSE(bits, t, n)                                                           \
    FLAMEC_TRANSPOSE_BACK(bits, t, n)                                                      \
    FLAMEC_OUTLINE void flamec_back_part_##bits(c_##t *to, int64_t stride, const c_##t *from, \
                                                int64_t rows, int64_t columns) {           \
        flamec_back_block_##bits(to, stride, from, rows, columns < n ? columns : n);       \
    }                                                                                      \
    FLAMEC_OUTLINE void flamec_back_whole_##bits(c_##t *to, int64_t stride, const c_##t *from) { \
        flamec_back_block_##bits(to, stride, from, n, n);                                  \
    }                                                                                      \
    FLAMEC_INLINE void flamec_transpose_back_##bits(void *target, int64_t stride, const void *source, \
                                                    int64_t rows, int64_t columns) {       \
        for (int64_t r = 0; r < rows; r += n)                                              \
            for (int64_t c = 0; c < columns; c += n) {                                     \
                c_##t *to = (c_##t *)target + r * stride + c;                              \
                const c_##t *from = (const c_##t *)source + c * FLAMEC_LANES + r;          \
                if (flamec_is_dense(bits, stride, columns))                                \
                    flamec_back_dense_##bits(to, from, rows - r < n ? rows - r : n, columns); \
                else if (rows - r >= n && columns - c >= n)                                     \
                    flamec_back_whole_##bits(to, stride, from);                            \
                else                                                                       \
                    flamec_back_part_##bits(to, stride, from, rows - r, columns - c);      \
            }                                                                              \
    }
#if FLAMEC_LANES == 16
FLAMEC_TRANSPOSES(8, u8, 16)
FLAMEC_TRANSPOSES(16, u16, 16)
FLAMEC_TRANSPOSES(32, f32, 16)
FLAMEC_TRANSPOSES(64, f64, 8)
#elif FLAMEC_LANES == 8
FLAMEC_TRANSPOSES(8, u8, 8)
FLAMEC_TRANSPOSES(16, u16, 8)
FLAMEC_TRANSPOSES(32, f32, 8)
FLAMEC_TRANSPOSES(64, f64, 4)
#else
FLAMEC_TRANSPOSES(8, u8, 4)
FLAMEC_TRANSPOSES(16, u16, 4)
FLAMEC_TRANSPOSES(32, f32, 4)
FLAMEC_TRANSPOSES(64, f64, 2)
#endif

#endif
