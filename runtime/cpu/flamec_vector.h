/* Sixteen-lane vectors: types, selection, comparison, conversion, horizontal reduction.
 *
 * In: values of the lane types f32 f64 i8 i16 i32 i64 u8 and b (bool, an int32 mask of 0 or -1).
 * Out: static inline functions v{name}_{lane type}. They use the vector extensions of gcc and
 * clang and no system header, so that a program compiles fast with either compiler.
 * Invariants: NaN, infinities, subnormals and signed zero behave as in NumPy; integers wrap
 * (compile with -fwrapv); no conversion is undefined. */
#ifndef FLAMEC_VECTOR_H
#define FLAMEC_VECTOR_H

#include "flamec_runtime.h"

#define FLAMEC_LANES 16
#define FLAMEC_INLINE static inline __attribute__((always_inline, unused))
/* For functions that call libm once a lane: one copy a program, none where unused. */
#define FLAMEC_OUTLINE static __attribute__((noinline, unused))

#define FLAMEC_VECTOR_TYPES(t, scalar)                                                     \
    typedef scalar c_##t;                                                                  \
    typedef scalar v_##t __attribute__((vector_size(16 * sizeof(scalar))));                \
    typedef scalar v8_##t __attribute__((vector_size(8 * sizeof(scalar))));                \
    typedef scalar v4_##t __attribute__((vector_size(4 * sizeof(scalar))));                \
    typedef v_##t u_##t __attribute__((aligned(1), may_alias));                            \
    typedef union {                                                                        \
        v_##t whole;                                                                       \
        v8_##t half[2];                                                                    \
        v4_##t quarter[4];                                                                 \
        scalar lane[16];                                                                   \
    } parts_##t;                                                                           \
    FLAMEC_INLINE v_##t vsplat_##t(scalar x) {                                             \
        return (v_##t){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x};                    \
    }

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

/* The bits of a vector as integers of the same width, and back. */
FLAMEC_INLINE v_i32 vbits_f32(v_f32 x) { return (v_i32)x; }
FLAMEC_INLINE v_f32 vfrom_bits_f32(v_i32 x) { return (v_f32)x; }
FLAMEC_INLINE v_i64 vbits_f64(v_f64 x) { return (v_i64)x; }
FLAMEC_INLINE v_f64 vfrom_bits_f64(v_i64 x) { return (v_f64)x; }

#define FLAMEC_CONVERT(x, t) __builtin_convertvector(x, v_##t)

/* m ? a : b in each lane, as bit arithmetic: gcc has no vector ?: in C. `bits` is the integer
 * lane type as wide as t. */
#define FLAMEC_SELECT(t, bits)                                                             \
    FLAMEC_INLINE v_##t vsel_##t(v_b m, v_##t a, v_##t b) {                                \
        v_##bits wide = FLAMEC_CONVERT(m, bits);                                           \
        return (v_##t)(((v_##bits)a & wide) | ((v_##bits)b & ~wide));                      \
    }

FLAMEC_SELECT(f64, i64)
FLAMEC_SELECT(i8, i8)
FLAMEC_SELECT(i16, i16)
FLAMEC_SELECT(i64, i64)
FLAMEC_SELECT(u8, i8)
FLAMEC_INLINE v_f32 vsel_f32(v_b m, v_f32 a, v_f32 b) {
    return (v_f32)(((v_i32)a & m) | ((v_i32)b & ~m));
}
FLAMEC_INLINE v_i32 vsel_i32(v_b m, v_i32 a, v_i32 b) { return (a & m) | (b & ~m); }
FLAMEC_INLINE v_b vsel_b(v_b m, v_b a, v_b b) { return (a & m) | (b & ~m); }

#define FLAMEC_COMPARE(t)                                                                  \
    FLAMEC_INLINE v_b veq_##t(v_##t x, v_##t y) { return FLAMEC_CONVERT(x == y, i32); }    \
    FLAMEC_INLINE v_b vne_##t(v_##t x, v_##t y) { return FLAMEC_CONVERT(x != y, i32); }    \
    FLAMEC_INLINE v_b vlt_##t(v_##t x, v_##t y) { return FLAMEC_CONVERT(x < y, i32); }     \
    FLAMEC_INLINE v_b vle_##t(v_##t x, v_##t y) { return FLAMEC_CONVERT(x <= y, i32); }    \
    FLAMEC_INLINE v_b vgt_##t(v_##t x, v_##t y) { return FLAMEC_CONVERT(x > y, i32); }     \
    FLAMEC_INLINE v_b vge_##t(v_##t x, v_##t y) { return FLAMEC_CONVERT(x >= y, i32); }

FLAMEC_COMPARE(f32)
FLAMEC_COMPARE(f64)
FLAMEC_COMPARE(i8)
FLAMEC_COMPARE(i16)
FLAMEC_COMPARE(i32)
FLAMEC_COMPARE(i64)
FLAMEC_COMPARE(u8)
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
