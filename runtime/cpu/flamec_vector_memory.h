/* Loads and stores between memory types (f32 f64 f16 bf16 i8 i16 i32 i64 u8 bool) and lanes.
 *
 * f16 and bf16 become f32 lanes, bool becomes b lanes. `_n` variants touch only the first n
 * (0 to FLAMEC_LANES) elements; missing lanes of a load are zero. Strides and offsets count elements. No
 * alignment is assumed. */
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
    FLAMEC_INLINE void flamec_store_n_##t(void *p, v_##t x, int64_t n) {                   \
        parts_##t r = {x};                                                                 \
        if (n >= FLAMEC_LANES) flamec_store_##t(p, x);                                     \
        else flamec_copy_first(p, r.lane, n, sizeof(c_##t));                               \
    }
FLAMEC_PARTIAL_BY_COPY(i8)
FLAMEC_PARTIAL_BY_COPY(i16)
FLAMEC_PARTIAL_BY_COPY(u8)
FLAMEC_PARTIAL_BY_COPY(u16)

#if FLAMEC_REGISTER == 64 && defined(__has_builtin)
#if __has_builtin(__builtin_ia32_loadups512_mask)
#define FLAMEC_MASKED_MEMORY
#endif
#endif

#ifdef FLAMEC_MASKED_MEMORY
/* Masked instructions: no branches, and no store that a wider load must wait for. */
#define FLAMEC_PARTIAL_BY_MASK(t, scalar, load, store)                                     \
    FLAMEC_INLINE v_##t flamec_load_n_##t(const void *p, int64_t n) {                      \
        typedef scalar piece __attribute__((vector_size(FLAMEC_REGISTER)));                \
        unsigned mask = n < FLAMEC_LANES ? (1u << n) - 1 : 0xffffu;                        \
        parts_##t r = {vsplat_##t(0)};                                                     \
        const int lanes = FLAMEC_LANES / FLAMEC_PIECES(t);                                 \
        for (int i = 0; i < FLAMEC_PIECES(t); i++)                                         \
            r.piece[i] = (n_##t)load((const scalar *)p + i * lanes, (piece){0},            \
                                     (mask >> (i * lanes)) & ((1u << lanes) - 1));         \
        return r.whole;                                                                    \
    }                                                                                      \
    FLAMEC_INLINE void flamec_store_n_##t(void *p, v_##t x, int64_t n) {                   \
        typedef scalar piece __attribute__((vector_size(FLAMEC_REGISTER)));                \
        unsigned mask = n < FLAMEC_LANES ? (1u << n) - 1 : 0xffffu;                        \
        parts_##t r = {x};                                                                 \
        const int lanes = FLAMEC_LANES / FLAMEC_PIECES(t);                                 \
        for (int i = 0; i < FLAMEC_PIECES(t); i++)                                         \
            store((scalar *)p + i * lanes, (piece)r.piece[i],                              \
                  (mask >> (i * lanes)) & ((1u << lanes) - 1));                            \
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
        parts_##raw r;                                                                     \
        for (int i = 0; i < FLAMEC_LANES; i++) r.lane[i] = ((const c_##raw *)p)[i * stride]; \
        return widen(r.whole);                                                             \
    }                                                                                      \
    FLAMEC_INLINE v_##t vloads_n_##m(const void *p, int64_t stride, int64_t n) {           \
        parts_##raw r = {vsplat_##raw(0)};                                                 \
        for (int64_t i = 0; i < n; i++) r.lane[i] = ((const c_##raw *)p)[i * stride];      \
        return widen(r.whole);                                                             \
    }                                                                                      \
    FLAMEC_INLINE void vstores_##m(void *p, int64_t stride, v_##t x) {                     \
        parts_##raw r = {narrow(x)};                                                       \
        for (int i = 0; i < FLAMEC_LANES; i++) ((c_##raw *)p)[i * stride] = r.lane[i];     \
    }                                                                                      \
    FLAMEC_INLINE void vstores_n_##m(void *p, int64_t stride, v_##t x, int64_t n) {        \
        parts_##raw r = {narrow(x)};                                                       \
        for (int64_t i = 0; i < n; i++) ((c_##raw *)p)[i * stride] = r.lane[i];            \
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
