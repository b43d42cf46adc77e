/* Loads and stores between memory types (f32 f64 f16 bf16 i8 i16 i32 i64 u8 bool) and lanes.
 *
 * f16 and bf16 become f32 lanes, bool becomes b lanes. `_n` variants touch only the first n
 * (0 to FLAMEC_LANES) elements, `_between` those from first to end - 1 (0 <= first < end <= FLAMEC_LANES;
 * the address is that of element 0, whether it exists or not); missing lanes of a load are zero. Strides
 * and offsets count elements. No alignment is assumed. */
#ifndef FLAMEC_VECTOR_MEMORY_H
#define FLAMEC_VECTOR_MEMORY_H

#define FLAMEC_IDENTITY(x) (x)
#define FLAMEC_WIDEN_BOOL(x) FLAMEC_CONVERT((x) != 0, i32)
#define FLAMEC_NARROW_BOOL(x) FLAMEC_CONVERT((x) & 1, u8)

/* Copies the first n (less than FLAMEC_LANES) elements in powers of two: a constant n costs no
 * branch. */
FLAMEC_INLINE void flamec_copy_first(void *to, const void *from, int64_t n, int64_t size) {
    char *target = (char *)to;
    const char *source = (const char *)from;
    if (FLAMEC_LANES > 8 && (n & 8)) {
        __builtin_memcpy(target, source, 8 * size);
        target += 8 * size;
        source += 8 * size;
    }
    if (FLAMEC_LANES > 4 && (n & 4)) {
        __builtin_memcpy(target, source, 4 * size);
        target += 4 * size;
        source += 4 * size;
    }
    if (n & 2) {
        __builtin_memcpy(target, source, 2 * size);
        target += 2 * size;
        source += 2 * size;
    }
    if (n & 1) __builtin_memcpy(target, source, size);
}

#define FLAMEC_RAW_MEMORY(t)                                                               \
    FLAMEC_INLINE v_##t flamec_load_##t(const void *p) { return *(const u_##t *)p; }       \
    FLAMEC_INLINE void flamec_store_##t(void *p, v_##t x) { *(u_##t *)p = x; }
FLAMEC_RAW_MEMORY(f32)
FLAMEC_RAW_MEMORY(f64)
FLAMEC_RAW_MEMORY(i8)
FLAMEC_RAW_MEMORY(i16)
FLAMEC_RAW_MEMORY(i32)
FLAMEC_RAW_MEMORY(i64)
FLAMEC_RAW_MEMORY(u8)
FLAMEC_RAW_MEMORY(u16)

#define FLAMEC_PARTIAL_BY_COPY(t)                                                          \
    FLAMEC_INLINE v_##t flamec_load_n_##t(const void *p, int64_t n) {                      \
        if (n >= FLAMEC_LANES) return flamec_load_##t(p);                                  \
        parts_##t r = {vsplat_##t(0)};                                                     \
        flamec_copy_first(r.lane, p, n, sizeof(c_##t));                                    \
        return r.whole;                                                                    \
    }                                                                                      \
    FLAMEC_INLINE v_##t flamec_load_lanes_##t(const void *p, unsigned mask, v_##t others) { \
        if (!mask) return others;                                                          \
        if (mask == FLAMEC_ALL_LANES) return flamec_load_##t(p);                           \
        const int first = __builtin_ctz(mask), end = 32 - __builtin_clz(mask);             \
        parts_##t r = {others};                                                            \
        flamec_copy_first(r.lane + first, (const c_##t *)p + first, end - first, sizeof(c_##t)); \
        return r.whole;                                                                    \
    }                                                                                      \
    FLAMEC_INLINE void flamec_store_n_##t(void *p, v_##t x, int64_t n) {                   \
        parts_##t r = {x};                                                                 \
        if (n >= FLAMEC_LANES) flamec_store_##t(p, x);                                     \
        else flamec_copy_first(p, r.lane, n, sizeof(c_##t));                               \
    }
FLAMEC_PARTIAL_BY_COPY(i8)
FLAMEC_PARTIAL_BY_COPY(i16)
FLAMEC_PARTIAL_BY_COPY(u8)
FLAMEC_PARTIAL_BY_COPY(u16)

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define FLAMEC_SHUFFLES
#endif
#endif

#if FLAMEC_REGISTER == 64 && defined(__has_builtin)
#if __has_builtin(__builtin_ia32_loadups512_mask)
#define FLAMEC_MASKED_MEMORY
#endif
#endif

#ifdef FLAMEC_MASKED_MEMORY
/* Masked instructions: no branches, and no store that a wider load must wait for. */
#define FLAMEC_PARTIAL_BY_MASK(t, scalar, load, store)                                     \
    FLAMEC_INLINE v_##t flamec_load_lanes_##t(const void *p, unsigned mask, v_##t others) { \
        typedef scalar piece __attribute__((vector_size(FLAMEC_REGISTER)));                \
        parts_##t r = {others};                                                            \
        const int lanes = FLAMEC_LANES / FLAMEC_PIECES(t);                                 \
        for (int i = 0; i < FLAMEC_PIECES(t); i++)                                         \
            r.piece[i] = (n_##t)load((const scalar *)p + i * lanes, (piece)r.piece[i],     \
                                     (mask >> (i * lanes)) & ((1u << lanes) - 1));         \
        return r.whole;                                                                    \
    }                                                                                      \
    FLAMEC_INLINE v_##t flamec_load_n_##t(const void *p, int64_t n) {                      \
        const unsigned mask = n < FLAMEC_LANES ? (1u << n) - 1 : 0xffffu;                  \
        return flamec_load_lanes_##t(p, mask, vsplat_##t(0));                              \
    }                                                                                      \
    FLAMEC_INLINE void flamec_store_n_##t(void *p, v_##t x, int64_t n) {                   \
        typedef scalar piece __attribute__((vector_size(FLAMEC_REGISTER)));                \
        unsigned mask = n < FLAMEC_LANES ? (1u << n) - 1 : 0xffffu;                        \
        parts_##t r = {x};                                                                 \
        const int lanes = FLAMEC_LANES / FLAMEC_PIECES(t);                                 \
        for (int i = 0; i < FLAMEC_PIECES(t); i++)                                         \
            if (!i || n > i * lanes)                                                       \
                store((scalar *)p + i * lanes, (piece)r.piece[i],                          \
                      (mask >> (i * lanes)) & ((1u << lanes) - 1));                        \
    }
FLAMEC_PARTIAL_BY_MASK(f32, float, __builtin_ia32_loadups512_mask, __builtin_ia32_storeups512_mask)
FLAMEC_PARTIAL_BY_MASK(f64, double, __builtin_ia32_loadupd512_mask, __builtin_ia32_storeupd512_mask)
FLAMEC_PARTIAL_BY_MASK(i32, int, __builtin_ia32_loaddqusi512_mask, __builtin_ia32_storedqusi512_mask)
FLAMEC_PARTIAL_BY_MASK(i64, long long, __builtin_ia32_loaddqudi512_mask,
                       __builtin_ia32_storedqudi512_mask)
#else
FLAMEC_PARTIAL_BY_COPY(f32)
FLAMEC_PARTIAL_BY_COPY(f64)
FLAMEC_PARTIAL_BY_COPY(i32)
FLAMEC_PARTIAL_BY_COPY(i64)
#endif

/* The first n of every second element, and stores to such places. */
#define FLAMEC_LOAD_SECOND(t)                                                              \
    FLAMEC_INLINE v_##t flamec_load_second_##t(const void *p, int64_t n) {                 \
        parts_##t r = {vsplat_##t(0)};                                                     \
        for (int64_t i = 0; i < n; i++) r.lane[i] = ((const c_##t *)p)[i * 2];             \
        return r.whole;                                                                    \
    }
#define FLAMEC_STORE_SECOND(t)                                                             \
    FLAMEC_INLINE void flamec_store_second_##t(void *p, v_##t x, int64_t n) {              \
        parts_##t r = {x};                                                                 \
        if (n >= FLAMEC_LANES)                                                             \
            for (int i = 0; i < FLAMEC_LANES; i++) ((c_##t *)p)[i * 2] = r.lane[i];        \
        else                                                                               \
            for (int64_t i = 0; i < n; i++) ((c_##t *)p)[i * 2] = r.lane[i];               \
    }
#define FLAMEC_EVERY_SECOND(t) FLAMEC_LOAD_SECOND(t) FLAMEC_STORE_SECOND(t)
FLAMEC_EVERY_SECOND(f64)
FLAMEC_EVERY_SECOND(i8)
FLAMEC_EVERY_SECOND(i16)
FLAMEC_EVERY_SECOND(i32)
FLAMEC_EVERY_SECOND(i64)
FLAMEC_EVERY_SECOND(u8)
FLAMEC_EVERY_SECOND(u16)

#if FLAMEC_LANES * 4 == FLAMEC_REGISTER && defined(FLAMEC_SHUFFLES)
#if FLAMEC_LANES == 16
#define FLAMEC_SECONDS 0, 2, 4, 6, 8, 10, 12, 14, 17, 19, 21, 23, 25, 27, 29, 31
#elif FLAMEC_LANES == 8
#define FLAMEC_SECONDS 0, 2, 4, 6, 9, 11, 13, 15
#else
#define FLAMEC_SECONDS 0, 2, 5, 7
#endif
/* Of two vectors that have the last element of the first in common: nothing beyond is read. */
FLAMEC_INLINE v_f32 flamec_load_second_f32(const void *p, int64_t n) {
    const c_f32 *next = (const c_f32 *)p + FLAMEC_LANES - 1;
    v_f32 low = vsplat_f32(0), high = vsplat_f32(0);
    if (n == FLAMEC_LANES) {
        low = flamec_load_f32(p);
        high = flamec_load_f32(next);
    } else if (2 * n > FLAMEC_LANES) {
        low = flamec_load_f32(p);
        high = flamec_load_n_f32(next, 2 * n - FLAMEC_LANES);
    } else if (n > 0)
        low = flamec_load_n_f32(p, 2 * n - 1);
    return __builtin_shufflevector(low, high, FLAMEC_SECONDS);
}
#else
FLAMEC_LOAD_SECOND(f32)
#endif

#if FLAMEC_LANES == 16 && defined(FLAMEC_MASKED_MEMORY) && defined(FLAMEC_SHUFFLES)
FLAMEC_INLINE void flamec_store_second_f32(void *p, v_f32 x, int64_t n) {
    typedef float piece __attribute__((vector_size(FLAMEC_REGISTER)));
    const unsigned mask = (unsigned)(((uint64_t)1 << (2 * n)) - 1) & 0x55555555u;
    const v_f32 low = __builtin_shufflevector(x, x, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    const v_f32 high =
        __builtin_shufflevector(x, x, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15);
    __builtin_ia32_storeups512_mask((float *)p, (piece)low, mask & 0xffffu);
    __builtin_ia32_storeups512_mask((float *)p + 16, (piece)high, mask >> 16);
}
#else
FLAMEC_STORE_SECOND(f32)
#endif

/* Some times a stride, as the compiler cannot know (the empty assembler text hides it): otherwise it would
 * keep an address for each lane of a strided load or store, and save and restore them. */
FLAMEC_INLINE int64_t flamec_hidden(int64_t stride, int64_t times) {
    int64_t distance = stride * times;
    if (!__builtin_constant_p(stride)) __asm__("" : "+r"(distance));
    return distance;
}

/* The lanes of a strided load of the first n stay in registers, four by four (put together in memory, a
 * vector has to wait for all of them): FLAMEC_JOIN(t, four) is the vector of four(t, 0), four(t, 1) and so
 * on. Of the last four lanes, only the places that there are are read or written: what a load finds
 * twice is masked, and what a store puts down first is overwritten by what belongs there. */
#ifndef FLAMEC_SHUFFLES
#define FLAMEC_JOIN(t, four)                                                               \
    union { four_##t fours[FLAMEC_LANES / 4]; v_##t whole; } r;                            \
    for (int i = 0; i < FLAMEC_LANES / 4; i++) r.fours[i] = four(t, i);                    \
    return r.whole;
#elif FLAMEC_LANES == 16
#define FLAMEC_JOIN(t, four)                                                               \
    const four_##t a = four(t, 0), b = four(t, 1), c = four(t, 2), d = four(t, 3);         \
    return __builtin_shufflevector(                                                        \
        __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7),                             \
        __builtin_shufflevector(c, d, 0, 1, 2, 3, 4, 5, 6, 7), FLAMEC_COUNT);
#elif FLAMEC_LANES == 8
#define FLAMEC_JOIN(t, four) return __builtin_shufflevector(four(t, 0), four(t, 1), FLAMEC_COUNT);
#else
#define FLAMEC_JOIN(t, four) return four(t, 0);
#endif
#define FLAMEC_FIRST_FOUR(t, i) flamec_load_four_##t(from + (i) * four, stride, n - 4 * (i))
#define FLAMEC_STRIDED(t, bits)                                                            \
    typedef c_##t four_##t __attribute__((vector_size(4 * sizeof(c_##t))));                \
    FLAMEC_INLINE four_##t flamec_load_four_##t(const c_##t *p, int64_t stride, int64_t n) { \
        if (n <= 0) return (four_##t){0};                                                  \
        return (four_##t){p[0], p[flamec_hidden(stride, n > 1)],                           \
                          p[flamec_hidden(stride, n > 2 ? 2 : 0)],                         \
                          p[flamec_hidden(stride, n > 3 ? 3 : 0)]};                        \
    }                                                                                      \
    FLAMEC_INLINE v_##t flamec_load_fours_##t(const void *p, int64_t stride, int64_t n) {  \
        const c_##t *from = p;                                                             \
        const int64_t four = flamec_hidden(stride, 4);                                     \
        FLAMEC_JOIN(t, FLAMEC_FIRST_FOUR)                                                  \
    }                                                                                      \
    FLAMEC_INLINE v_##t flamec_load_first_##t(const void *p, int64_t stride, int64_t n) {  \
        const v_##bits there = FLAMEC_CONVERT((v_i32){FLAMEC_COUNT} < (int32_t)n, bits);   \
        return (v_##t)((v_##bits)flamec_load_fours_##t(p, stride, n) & there);             \
    }                                                                                      \
    FLAMEC_INLINE v_##t flamec_load_strided_##t(const void *p, int64_t stride) {           \
        parts_##t r;                                                                       \
        const c_##t *from = p;                                                             \
        const int64_t two = flamec_hidden(stride, 2), three = flamec_hidden(stride, 3);    \
        for (int i = 0; i < FLAMEC_LANES; i += 4, from += flamec_hidden(stride, 4)) {      \
            r.lane[i] = from[0];                                                           \
            r.lane[i + 1] = from[stride];                                                  \
            r.lane[i + 2] = from[two];                                                     \
            r.lane[i + 3] = from[three];                                                   \
        }                                                                                  \
        return r.whole;                                                                    \
    }                                                                                      \
    FLAMEC_INLINE void flamec_store_strided_##t(void *p, int64_t stride, v_##t x) {        \
        parts_##t r = {x};                                                                 \
        c_##t *to = p;                                                                     \
        const int64_t two = flamec_hidden(stride, 2), three = flamec_hidden(stride, 3);    \
        for (int i = 0; i < FLAMEC_LANES; i += 4, to += flamec_hidden(stride, 4)) {        \
            to[0] = r.lane[i];                                                             \
            to[stride] = r.lane[i + 1];                                                    \
            to[two] = r.lane[i + 2];                                                       \
            to[three] = r.lane[i + 3];                                                     \
        }                                                                                  \
    }                                                                                      \
    FLAMEC_INLINE void flamec_store_first_##t(void *p, int64_t stride, v_##t x, int64_t n) { \
        parts_##t r = {x};                                                                 \
        c_##t *to = p;                                                                     \
        for (int i = 0; i < FLAMEC_LANES; i += 4, n -= 4, to += flamec_hidden(stride, 4)) { \
            if (n <= 0) return;                                                            \
            to[flamec_hidden(stride, n > 3 ? 3 : 0)] = r.lane[i + 3];                      \
            to[flamec_hidden(stride, n > 2 ? 2 : 0)] = r.lane[i + 2];                      \
            to[flamec_hidden(stride, n > 1)] = r.lane[i + 1];                              \
            to[0] = r.lane[i];                                                             \
        }                                                                                  \
    }
FLAMEC_STRIDED(f32, i32)
FLAMEC_STRIDED(f64, i64)
FLAMEC_STRIDED(i8, i8)
FLAMEC_STRIDED(i16, i16)
FLAMEC_STRIDED(i32, i32)
FLAMEC_STRIDED(i64, i64)
FLAMEC_STRIDED(u8, i8)
FLAMEC_STRIDED(u16, i16)

/* m: memory type, t: lane type, raw: the lane type of the stored bits. */
#define FLAMEC_MEMORY(m, t, raw, widen, narrow)                                            \
    FLAMEC_INLINE v_##t vload_##m(const void *p) { return widen(flamec_load_##raw(p)); }   \
    FLAMEC_INLINE void vstore_##m(void *p, v_##t x) { flamec_store_##raw(p, narrow(x)); }  \
    FLAMEC_INLINE v_##t vload_n_##m(const void *p, int64_t n) {                            \
        return widen(flamec_load_n_##raw(p, n));                                           \
    }                                                                                      \
    FLAMEC_INLINE void vstore_n_##m(void *p, v_##t x, int64_t n) {                         \
        flamec_store_n_##raw(p, narrow(x), n);                                             \
    }                                                                                      \
    FLAMEC_INLINE v_##t vloads_##m(const void *p, int64_t stride) {                        \
        if (stride == 2) return widen(flamec_load_second_##raw(p, FLAMEC_LANES));          \
        return widen(flamec_load_strided_##raw(p, stride));                                \
    }                                                                                      \
    FLAMEC_INLINE v_##t vloads_n_##m(const void *p, int64_t stride, int64_t n) {           \
        if (stride == 2) return widen(flamec_load_second_##raw(p, n));                     \
        return widen(flamec_load_first_##raw(p, stride, n));                               \
    }                                                                                      \
    FLAMEC_INLINE void vstores_##m(void *p, int64_t stride, v_##t x) {                     \
        if (stride == 2) flamec_store_second_##raw(p, narrow(x), FLAMEC_LANES);            \
        else flamec_store_strided_##raw(p, stride, narrow(x));                             \
    }                                                                                      \
    FLAMEC_INLINE void vstores_n_##m(void *p, int64_t stride, v_##t x, int64_t n) {        \
        if (stride == 2) flamec_store_second_##raw(p, narrow(x), n);                       \
        else flamec_store_first_##raw(p, stride, narrow(x), n);                            \
    }                                                                                      \
    FLAMEC_INLINE v_##t vgather_##m(const void *p, v_i64 offsets) {                        \
        parts_##raw r;                                                                     \
        parts_i64 at = {offsets};                                                          \
        for (int i = 0; i < FLAMEC_LANES; i++) r.lane[i] = ((const c_##raw *)p)[at.lane[i]]; \
        return widen(r.whole);                                                             \
    }                                                                                      \
    FLAMEC_INLINE v_##t vgather_n_##m(const void *p, v_i64 offsets, int64_t n) {           \
        parts_##raw r = {vsplat_##raw(0)};                                                 \
        parts_i64 at = {offsets};                                                          \
        for (int64_t i = 0; i < n; i++) r.lane[i] = ((const c_##raw *)p)[at.lane[i]];      \
        return widen(r.whole);                                                             \
    }

/* A bit for each of the first n lanes `at`, at + 1 … that is in 0 … size - 1. */
FLAMEC_INLINE unsigned flamec_lanes(int64_t at, int64_t size, int64_t n) {
    int64_t first = at < 0 ? -at : 0, end = size - at < n ? size - at : n;
    first = first < FLAMEC_LANES ? first : FLAMEC_LANES;
    end = end > 0 ? end : 0;
    return ((1u << end) - 1) & (~0u << first);
}

/* The lanes whose bit is set, which are neighbours; `others` elsewhere, where nothing is read. */
#define FLAMEC_LOAD_LANES(t)                                                               \
    FLAMEC_INLINE v_##t vload_lanes_##t(const void *p, unsigned mask, v_##t others) {      \
        return flamec_load_lanes_##t(p, mask, others);                                     \
    }
#define FLAMEC_LOAD_LANES_WIDENED(m, t, raw, widen)                                        \
    FLAMEC_INLINE v_##t vload_lanes_##m(const void *p, unsigned mask, v_##t others) {      \
        if (!mask) return others;                                                          \
        const v_##t x = widen(flamec_load_lanes_##raw(p, mask, vsplat_##raw(0)));          \
        const v_i32 bit = (vsplat_i32((int32_t)mask) >> (v_i32){FLAMEC_COUNT}) & 1;        \
        return vsel_##t(bit != 0, x, others);                                              \
    }
FLAMEC_LOAD_LANES(f32) FLAMEC_LOAD_LANES(f64) FLAMEC_LOAD_LANES(i8) FLAMEC_LOAD_LANES(i16)
FLAMEC_LOAD_LANES(i32) FLAMEC_LOAD_LANES(i64) FLAMEC_LOAD_LANES(u8)
FLAMEC_LOAD_LANES_WIDENED(f16, f32, u16, vwiden_f16)
FLAMEC_LOAD_LANES_WIDENED(bf16, f32, u16, vwiden_bf16)
FLAMEC_LOAD_LANES_WIDENED(bool, b, u8, FLAMEC_WIDEN_BOOL)

FLAMEC_MEMORY(f32, f32, f32, FLAMEC_IDENTITY, FLAMEC_IDENTITY)
FLAMEC_MEMORY(f64, f64, f64, FLAMEC_IDENTITY, FLAMEC_IDENTITY)
FLAMEC_MEMORY(f16, f32, u16, vwiden_f16, vnarrow_f16)
FLAMEC_MEMORY(bf16, f32, u16, vwiden_bf16, vnarrow_bf16)
FLAMEC_MEMORY(i8, i8, i8, FLAMEC_IDENTITY, FLAMEC_IDENTITY)
FLAMEC_MEMORY(i16, i16, i16, FLAMEC_IDENTITY, FLAMEC_IDENTITY)
FLAMEC_MEMORY(i32, i32, i32, FLAMEC_IDENTITY, FLAMEC_IDENTITY)
FLAMEC_MEMORY(i64, i64, i64, FLAMEC_IDENTITY, FLAMEC_IDENTITY)
FLAMEC_MEMORY(u8, u8, u8, FLAMEC_IDENTITY, FLAMEC_IDENTITY)
FLAMEC_MEMORY(bool, b, u8, FLAMEC_WIDEN_BOOL, FLAMEC_NARROW_BOOL)

#endif
