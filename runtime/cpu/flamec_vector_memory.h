/* Loads and stores between memory types (f32 f64 f16 bf16 i8 i16 i32 i64 u8 bool) and lanes.
 *
 * f16 and bf16 become f32 lanes, bool becomes b lanes. `_n` variants touch only the first n
 * (0 to 16) elements; missing lanes of a load are zero. Strides and offsets count elements. No
 * alignment is assumed. */
#ifndef FLAMEC_VECTOR_MEMORY_H
#define FLAMEC_VECTOR_MEMORY_H

#define FLAMEC_IDENTITY(x) (x)
#define FLAMEC_WIDEN_BOOL(x) FLAMEC_CONVERT((x) != 0, i32)
#define FLAMEC_NARROW_BOOL(x) FLAMEC_CONVERT((x) & 1, u8)

/* The first n elements by powers of two, so that a constant n costs no branch. */
#define FLAMEC_RAW_MEMORY(t)                                                               \
    FLAMEC_INLINE v_##t flamec_load_##t(const void *p) { return *(const u_##t *)p; }       \
    FLAMEC_INLINE void flamec_store_##t(void *p, v_##t x) { *(u_##t *)p = x; }             \
    FLAMEC_INLINE v_##t flamec_load_n_##t(const void *p, int64_t n) {                      \
        if (n >= FLAMEC_LANES) return flamec_load_##t(p);                                  \
        parts_##t r = {vsplat_##t(0)};                                                     \
        const c_##t *from = (const c_##t *)p;                                              \
        int64_t at = 0;                                                                    \
        if (n & 8) {                                                                       \
            __builtin_memcpy(r.lane, from, 8 * sizeof(c_##t));                             \
            at = 8;                                                                        \
        }                                                                                  \
        if (n & 4) {                                                                       \
            __builtin_memcpy(r.lane + at, from + at, 4 * sizeof(c_##t));                   \
            at += 4;                                                                       \
        }                                                                                  \
        if (n & 2) {                                                                       \
            __builtin_memcpy(r.lane + at, from + at, 2 * sizeof(c_##t));                   \
            at += 2;                                                                       \
        }                                                                                  \
        if (n & 1) __builtin_memcpy(r.lane + at, from + at, sizeof(c_##t));                \
        return r.whole;                                                                    \
    }                                                                                      \
    FLAMEC_INLINE void flamec_store_n_##t(void *p, v_##t x, int64_t n) {                   \
        if (n >= FLAMEC_LANES) {                                                           \
            flamec_store_##t(p, x);                                                        \
            return;                                                                        \
        }                                                                                  \
        parts_##t r = {x};                                                                 \
        c_##t *to = (c_##t *)p;                                                            \
        int64_t at = 0;                                                                    \
        if (n & 8) {                                                                       \
            __builtin_memcpy(to, r.lane, 8 * sizeof(c_##t));                               \
            at = 8;                                                                        \
        }                                                                                  \
        if (n & 4) {                                                                       \
            __builtin_memcpy(to + at, r.lane + at, 4 * sizeof(c_##t));                     \
            at += 4;                                                                       \
        }                                                                                  \
        if (n & 2) {                                                                       \
            __builtin_memcpy(to + at, r.lane + at, 2 * sizeof(c_##t));                     \
            at += 2;                                                                       \
        }                                                                                  \
        if (n & 1) __builtin_memcpy(to + at, r.lane + at, sizeof(c_##t));                  \
    }
FLAMEC_RAW_MEMORY(f32)
FLAMEC_RAW_MEMORY(f64)
FLAMEC_RAW_MEMORY(i8)
FLAMEC_RAW_MEMORY(i16)
FLAMEC_RAW_MEMORY(i32)
FLAMEC_RAW_MEMORY(i64)
FLAMEC_RAW_MEMORY(u8)
FLAMEC_RAW_MEMORY(u16)

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

FLAMEC_INLINE v_i64 viota_i64(int64_t start) {
    return start + (v_i64){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
}

#endif
