/* Vectors of FLAMEC_LANES lanes: types, selection, comparison, and what includes the rest.
 *
 * In: values of the lane types f32 f64 i8 i16 i32 i64 u8 and b (bool, an int32 mask of 0 or -1).
 * Out: static inline functions v{name}_{lane type}. They use the vector extensions of gcc and
 * clang and no system header, so that a program compiles fast with either compiler.
 * Invariants: NaN, infinities, subnormals and signed zero behave as in NumPy; integers wrap
 * (compile with -fwrapv); no conversion is undefined.
 *
 * FLAMEC_LANES is 16 unless the program defines FLAMEC_NATIVE_LANES before it includes this file;
 * then it is what one register holds of float32 (16, 8 or 4), which is much faster where that is
 * less than 16: gcc keeps wider values in memory. Such a program counts in FLAMEC_LANES. */
#ifndef FLAMEC_VECTOR_H
#define FLAMEC_VECTOR_H

#include "flamec_runtime.h"

#if defined(__AVX512F__)
#define FLAMEC_REGISTER 64
#elif defined(__AVX__)
#define FLAMEC_REGISTER 32
#else
#define FLAMEC_REGISTER 16
#endif

#if !defined(FLAMEC_NATIVE_LANES) || FLAMEC_REGISTER == 64
#define FLAMEC_LANES 16
#define FLAMEC_REPEAT(x) x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x
#define FLAMEC_COUNT 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
#elif FLAMEC_REGISTER == 32
#define FLAMEC_LANES 8
#define FLAMEC_REPEAT(x) x, x, x, x, x, x, x, x
#define FLAMEC_COUNT 0, 1, 2, 3, 4, 5, 6, 7
#else
#define FLAMEC_LANES 4
#define FLAMEC_REPEAT(x) x, x, x, x
#define FLAMEC_COUNT 0, 1, 2, 3
#endif

#define FLAMEC_ALL_LANES ((1u << FLAMEC_LANES) - 1)

#define FLAMEC_INLINE static inline __attribute__((always_inline, unused))
#define FLAMEC_SCALAR static inline __attribute__((unused))
/* For what is long: one copy in a program, none where unused. */
#define FLAMEC_OUTLINE static __attribute__((noinline, unused))

#define FLAMEC_SIZE(scalar) (FLAMEC_LANES * sizeof(scalar))
#define FLAMEC_AT_MOST(scalar, bytes) \
    (FLAMEC_SIZE(scalar) < (bytes) ? FLAMEC_SIZE(scalar) : (bytes))
#define FLAMEC_PIECES(t) ((int)(sizeof(v_##t) / sizeof(n_##t)))
#define FLAMEC_QUADS(t) ((int)(sizeof(v_##t) / sizeof(q_##t)))

/* v_t: all lanes; n_t: a piece that fits a register; q_t: a piece of at most 16 bytes. */
#define FLAMEC_VECTOR_TYPES(t, scalar)                                                     \
    typedef scalar c_##t;                                                                  \
    typedef scalar v_##t __attribute__((vector_size(FLAMEC_SIZE(scalar))));                \
    typedef scalar n_##t __attribute__((vector_size(FLAMEC_AT_MOST(scalar, FLAMEC_REGISTER)))); \
    typedef scalar q_##t __attribute__((vector_size(FLAMEC_AT_MOST(scalar, 16))));         \
    typedef v_##t u_##t __attribute__((aligned(1), may_alias));                            \
    typedef union {                                                                        \
        v_##t whole;                                                                       \
        n_##t piece[sizeof(v_##t) / sizeof(n_##t)];                                        \
        q_##t quad[sizeof(v_##t) / sizeof(q_##t)];                                         \
        scalar lane[FLAMEC_LANES];                                                         \
    } parts_##t;                                                                           \
    FLAMEC_INLINE v_##t vsplat_##t(scalar x) { return (v_##t){FLAMEC_REPEAT(x)}; }

FLAMEC_VECTOR_TYPES(f32, float)
FLAMEC_VECTOR_TYPES(f64, double)
FLAMEC_VECTOR_TYPES(i8, int8_t)
FLAMEC_VECTOR_TYPES(i16, int16_t)
FLAMEC_VECTOR_TYPES(i32, int32_t)
FLAMEC_VECTOR_TYPES(i64, int64_t)
FLAMEC_VECTOR_TYPES(u8, uint8_t)
FLAMEC_VECTOR_TYPES(u16, uint16_t)
FLAMEC_VECTOR_TYPES(u32, uint32_t)
FLAMEC_VECTOR_TYPES(u64, uint64_t)

typedef int32_t c_b;
typedef v_i32 v_b;
FLAMEC_INLINE v_b vsplat_b(int x) { return vsplat_i32(x ? -1 : 0); }
FLAMEC_INLINE v_i32 viota_i32(int32_t start) { return start + (v_i32){FLAMEC_COUNT}; }
FLAMEC_INLINE v_i64 viota_i64(int64_t start) { return start + (v_i64){FLAMEC_COUNT}; }

#define FLAMEC_CONVERT(x, t) __builtin_convertvector(x, v_##t)

/* A function of whole vectors from one of register-sized pieces: v{name}_t from n{name}_t. */
#define FLAMEC_BY_PIECE_1(name, t)                                                         \
    FLAMEC_INLINE v_##t v##name##_##t(v_##t x) {                                           \
        parts_##t p = {x};                                                                 \
        for (int i = 0; i < FLAMEC_PIECES(t); i++) p.piece[i] = n##name##_##t(p.piece[i]); \
        return p.whole;                                                                    \
    }
#define FLAMEC_BY_PIECE_2(name, t)                                                         \
    FLAMEC_INLINE v_##t v##name##_##t(v_##t x, v_##t y) {                                  \
        parts_##t p = {x}, q = {y};                                                        \
        for (int i = 0; i < FLAMEC_PIECES(t); i++)                                         \
            p.piece[i] = n##name##_##t(p.piece[i], q.piece[i]);                            \
        return p.whole;                                                                    \
    }

/* m ? a : b in each lane, as bit arithmetic: gcc has no vector ?: in C. `bits` is the signed
 * integer lane type as wide as t; nsel takes a mask of that width. */
#define FLAMEC_SELECT(t, bits)                                                             \
    FLAMEC_INLINE n_##t nsel_##t(n_##bits m, n_##t a, n_##t b) {                           \
        return (n_##t)(((n_##bits)a & m) | ((n_##bits)b & ~m));                            \
    }                                                                                      \
    FLAMEC_INLINE v_##t vsel_##t(v_b m, v_##t a, v_##t b) {                                \
        v_##bits wide = FLAMEC_CONVERT(m, bits);                                           \
        return (v_##t)(((v_##bits)a & wide) | ((v_##bits)b & ~wide));                      \
    }
FLAMEC_SELECT(f32, i32)
FLAMEC_SELECT(f64, i64)
FLAMEC_SELECT(i8, i8)
FLAMEC_SELECT(i16, i16)
FLAMEC_SELECT(i32, i32)
FLAMEC_SELECT(i64, i64)
FLAMEC_SELECT(u8, i8)
FLAMEC_INLINE v_b vsel_b(v_b m, v_b a, v_b b) { return (a & m) | (b & ~m); }

/* w{name}: the relation as a mask as wide as t. By pieces, because gcc compares a vector that
 * does not fit a register lane by lane. */
#define FLAMEC_RELATION(name, t, bits, relation)                                           \
    FLAMEC_INLINE v_##bits w##name##_##t(v_##t x, v_##t y) {                               \
        parts_##t p = {x}, q = {y};                                                        \
        parts_##bits r;                                                                    \
        for (int i = 0; i < FLAMEC_PIECES(t); i++)                                         \
            r.piece[i] = (n_##bits)(p.piece[i] relation q.piece[i]);                       \
        return r.whole;                                                                    \
    }                                                                                      \
    FLAMEC_INLINE v_b v##name##_##t(v_##t x, v_##t y) {                                    \
        return FLAMEC_CONVERT(w##name##_##t(x, y), i32);                                   \
    }
#define FLAMEC_COMPARE(t, bits)                                                            \
    FLAMEC_RELATION(eq, t, bits, ==)                                                       \
    FLAMEC_RELATION(ne, t, bits, !=)                                                       \
    FLAMEC_RELATION(lt, t, bits, <)                                                        \
    FLAMEC_RELATION(le, t, bits, <=)                                                       \
    FLAMEC_RELATION(gt, t, bits, >)                                                        \
    FLAMEC_RELATION(ge, t, bits, >=)
FLAMEC_COMPARE(f32, i32)
FLAMEC_COMPARE(f64, i64)
FLAMEC_COMPARE(i8, i8)
FLAMEC_COMPARE(i16, i16)
FLAMEC_COMPARE(i32, i32)
FLAMEC_COMPARE(i64, i64)
FLAMEC_COMPARE(u8, i8)
/* Masks count true as greater than false; as integers true is -1, so the order turns round. */
FLAMEC_INLINE v_b veq_b(v_b x, v_b y) { return ~(x ^ y); }
FLAMEC_INLINE v_b vne_b(v_b x, v_b y) { return x ^ y; }
FLAMEC_INLINE v_b vlt_b(v_b x, v_b y) { return ~x & y; }
FLAMEC_INLINE v_b vle_b(v_b x, v_b y) { return ~x | y; }
FLAMEC_INLINE v_b vgt_b(v_b x, v_b y) { return x & ~y; }
FLAMEC_INLINE v_b vge_b(v_b x, v_b y) { return x | ~y; }

#include "flamec_vector_cast.h"
#include "flamec_vector_arithmetic.h"
#include "flamec_vector_memory.h"
#include "flamec_vector_math.h"
#include "flamec_vector_libm.h"
#include "flamec_vector_random.h"

#endif
