/* Exact elementwise functions: signs, extremes, rounding, division, shifts, lane reductions.
 *
 * Maximum and minimum propagate NaN. Integer division by zero gives 0 and the most negative
 * integer divided by -1 wraps, as in NumPy; floor_divide and remainder of floats follow Python. */
#ifndef FLAMEC_VECTOR_ARITHMETIC_H
#define FLAMEC_VECTOR_ARITHMETIC_H

/* One result lane after another; for what has no vector instruction. */
#define FLAMEC_UNARY_LANES(name, t, expression)                                            \
    FLAMEC_OUTLINE v_##t v##name##_##t(v_##t vector) {                                     \
        parts_##t r = {vector};                                                            \
        for (int i = 0; i < FLAMEC_LANES; i++) {                                           \
            c_##t x = r.lane[i];                                                           \
            r.lane[i] = (expression);                                                      \
        }                                                                                  \
        return r.whole;                                                                    \
    }
#define FLAMEC_BINARY_LANES(name, t, expression)                                           \
    FLAMEC_OUTLINE v_##t v##name##_##t(v_##t left, v_##t right) {                          \
        parts_##t r = {left}, s = {right};                                                 \
        for (int i = 0; i < FLAMEC_LANES; i++) {                                           \
            c_##t x = r.lane[i], y = s.lane[i];                                            \
            r.lane[i] = (expression);                                                      \
        }                                                                                  \
        return r.whole;                                                                    \
    }

/* floats ------------------------------------------------------------------------------- */

#define FLAMEC_FLOAT_ARITHMETIC(t, bits, magic, suffix, sqrt_lane)                         \
    FLAMEC_INLINE v_##t vabs_##t(v_##t x) {                                                \
        return (v_##t)((v_##bits)x & ~(v_##bits)vsplat_##t(-0.0##suffix));                 \
    }                                                                                      \
    FLAMEC_INLINE v_##t vcopysign_##t(v_##t x, v_##t y) {                                  \
        v_##bits sign = (v_##bits)vsplat_##t(-0.0##suffix);                                \
        return (v_##t)(((v_##bits)x & ~sign) | ((v_##bits)y & sign));                      \
    }                                                                                      \
    FLAMEC_INLINE v_b vsignbit_##t(v_##t x) { return FLAMEC_CONVERT((v_##bits)x < 0, i32); } \
    FLAMEC_INLINE v_##t vsign_##t(v_##t x) {                                               \
        v_##bits one = (v_##bits)vsplat_##t(1.0##suffix);                                  \
        v_##bits minus = (v_##bits)vsplat_##t(-1.0##suffix);                               \
        return (v_##t)(((x > 0) & one) | ((x < 0) & minus) | ((x != x) & (v_##bits)x));    \
    }                                                                                      \
    FLAMEC_INLINE v_##t vmaximum_##t(v_##t x, v_##t y) {                                   \
        v_##bits left = (x > y) | (x != x);                                                \
        return (v_##t)(((v_##bits)x & left) | ((v_##bits)y & ~left));                      \
    }                                                                                      \
    FLAMEC_INLINE v_##t vminimum_##t(v_##t x, v_##t y) {                                   \
        v_##bits left = (x < y) | (x != x);                                                \
        return (v_##t)(((v_##bits)x & left) | ((v_##bits)y & ~left));                      \
    }                                                                                      \
    FLAMEC_INLINE v_##t vsqrt_##t(v_##t x) {                                               \
        parts_##t r = {x};                                                                 \
        for (int i = 0; i < FLAMEC_LANES; i++) r.lane[i] = sqrt_lane(r.lane[i]);           \
        return r.whole;                                                                    \
    }                                                                                      \
    FLAMEC_INLINE v_##t vrsqrt_##t(v_##t x) { return 1.0##suffix / vsqrt_##t(x); }         \
    /* Adding and subtracting 2^(mantissa bits) rounds to an integer, half to even. */     \
    FLAMEC_INLINE v_##t vround_##t(v_##t x) {                                              \
        v_##t size = vabs_##t(x);                                                          \
        v_##t whole = (size + (magic)) - (magic);                                          \
        v_##bits small = size < (magic);                                                   \
        v_##t r = (v_##t)(((v_##bits)whole & small) | ((v_##bits)x & ~small));             \
        return vcopysign_##t(r, x);                                                        \
    }                                                                                      \
    FLAMEC_INLINE v_##t vfloor_##t(v_##t x) {                                              \
        v_##t r = vround_##t(x);                                                           \
        v_##t one = (v_##t)((r > x) & (v_##bits)vsplat_##t(1.0##suffix));                  \
        return vcopysign_##t(r - one, x);                                                  \
    }                                                                                      \
    FLAMEC_INLINE v_##t vceil_##t(v_##t x) {                                               \
        v_##t r = vround_##t(x);                                                           \
        v_##t one = (v_##t)((r < x) & (v_##bits)vsplat_##t(1.0##suffix));                  \
        return vcopysign_##t(r + one, x);                                                  \
    }                                                                                      \
    FLAMEC_INLINE v_##t vtrunc_##t(v_##t x) {                                              \
        return vcopysign_##t(vfloor_##t(vabs_##t(x)), x);                                  \
    }

FLAMEC_FLOAT_ARITHMETIC(f32, i32, 0x1p23f, f, __builtin_sqrtf)
FLAMEC_FLOAT_ARITHMETIC(f64, i64, 0x1p52, , __builtin_sqrt)

/* Python's division of floats: the remainder has the divisor's sign, the quotient is the floor
 * and is snapped to an integer against rounding (as CPython's float_divmod does). */
#define FLAMEC_FLOAT_DIVISION(t, s, suffix)                                                \
    static inline __attribute__((unused)) c_##t flamec_remainder_##t(c_##t x, c_##t y) {   \
        c_##t r = __builtin_fmod##s(x, y);                                                 \
        if (!y) return r;                                                                  \
        if (!r) return __builtin_copysign##s(0, y);                                        \
        return (y < 0) != (r < 0) ? r + y : r;                                             \
    }                                                                                      \
    static inline __attribute__((unused)) c_##t flamec_floor_divide_##t(c_##t x, c_##t y) { \
        if (!y) return x / y;                                                              \
        c_##t r = __builtin_fmod##s(x, y);                                                 \
        c_##t q = (x - r) / y;                                                             \
        if (r && (y < 0) != (r < 0)) q -= 1;                                               \
        if (!q) return __builtin_copysign##s(0, x / y);                                    \
        c_##t low = __builtin_floor##s(q);                                                 \
        return q - low > 0.5##suffix ? low + 1 : low;                                      \
    }                                                                                      \
    FLAMEC_BINARY_LANES(fmod, t, __builtin_fmod##s(x, y))                                  \
    FLAMEC_BINARY_LANES(remainder, t, flamec_remainder_##t(x, y))                          \
    FLAMEC_BINARY_LANES(floor_divide, t, flamec_floor_divide_##t(x, y))                    \
    FLAMEC_BINARY_LANES(nextafter, t, __builtin_nextafter##s(x, y))
FLAMEC_FLOAT_DIVISION(f32, f, f)
FLAMEC_FLOAT_DIVISION(f64, , )

/* integers ------------------------------------------------------------------------------ */

#define FLAMEC_INTEGER_ARITHMETIC(t, mask, unsigned_type)                                  \
    FLAMEC_INLINE v_##t vmaximum_##t(v_##t x, v_##t y) {                                   \
        v_##t left = (v_##t)(x > y);                                                       \
        return (x & left) | (y & ~left);                                                   \
    }                                                                                      \
    FLAMEC_INLINE v_##t vminimum_##t(v_##t x, v_##t y) {                                   \
        v_##t left = (v_##t)(x < y);                                                       \
        return (x & left) | (y & ~left);                                                   \
    }                                                                                      \
    FLAMEC_INLINE v_##t vfloor_##t(v_##t x) { return x; }                                  \
    FLAMEC_INLINE v_##t vceil_##t(v_##t x) { return x; }                                   \
    FLAMEC_INLINE v_##t vround_##t(v_##t x) { return x; }                                  \
    FLAMEC_INLINE v_##t vtrunc_##t(v_##t x) { return x; }                                  \
    FLAMEC_BINARY_LANES(fmod, t, flamec_fmod_i64(x, y))                                    \
    FLAMEC_BINARY_LANES(remainder, t, flamec_remainder_i64(x, y))                          \
    FLAMEC_BINARY_LANES(floor_divide, t, flamec_floor_divide_i64(x, y))                    \
    FLAMEC_BINARY_LANES(pow, t, flamec_pow_i64(x, y))                                      \
    FLAMEC_BINARY_LANES(gcd, t, flamec_gcd_u64(flamec_magnitude(x), flamec_magnitude(y)))  \
    /* Shifting by the width or more, or by a negative amount, shifts everything out. */   \
    FLAMEC_INLINE v_##t vshift_left_##t(v_##t x, v_##t y) {                                \
        v_##t inside = (v_##t)(((v_##unsigned_type)y) < 8 * sizeof(c_##t));                \
        return (v_##t)((v_##unsigned_type)x << ((v_##unsigned_type)(y & inside))) & inside; \
    }                                                                                      \
    FLAMEC_INLINE v_##t vshift_right_##t(v_##t x, v_##t y) {                               \
        v_##t inside = (v_##t)(((v_##unsigned_type)y) < 8 * sizeof(c_##t));                \
        v_##t sign = (v_##t)(x < 0);                                                       \
        return ((x >> (y & inside)) & inside) | (sign & ~inside);                          \
    }
#define FLAMEC_SIGNED_ARITHMETIC(t)                                                        \
    FLAMEC_INLINE v_##t vabs_##t(v_##t x) {                                                \
        v_##t sign = x < 0;                                                                \
        return (x ^ sign) - sign;                                                          \
    }                                                                                      \
    FLAMEC_INLINE v_##t vsign_##t(v_##t x) { return (x < 0) - (x > 0); }                   \
    FLAMEC_INLINE v_b vsignbit_##t(v_##t x) { return FLAMEC_CONVERT(x < 0, i32); }

#define FLAMEC_SCALAR static inline __attribute__((unused))
FLAMEC_SCALAR int64_t flamec_fmod_i64(int64_t x, int64_t y) {
    return y == 0 || y == -1 ? 0 : x % y;
}
FLAMEC_SCALAR int64_t flamec_remainder_i64(int64_t x, int64_t y) {
    int64_t r = flamec_fmod_i64(x, y);
    return r != 0 && (r < 0) != (y < 0) ? r + y : r;
}
FLAMEC_SCALAR int64_t flamec_floor_divide_i64(int64_t x, int64_t y) {
    if (y == 0) return 0;
    if (y == -1) return (int64_t)(0 - (uint64_t)x);
    return x / y - (x % y != 0 && (x < 0) != (y < 0));
}
/* A negative exponent gives the truncated reciprocal: 0, or 1 and -1 for bases 1 and -1. */
FLAMEC_SCALAR int64_t flamec_pow_i64(int64_t x, int64_t y) {
    if (y < 0) return x == 1 ? 1 : x == -1 ? (y & 1 ? -1 : 1) : 0;
    uint64_t result = 1, base = (uint64_t)x;
    for (; y; y >>= 1, base *= base)
        if (y & 1) result *= base;
    return (int64_t)result;
}
FLAMEC_SCALAR uint64_t flamec_magnitude(int64_t x) { return x < 0 ? 0 - (uint64_t)x : (uint64_t)x; }
FLAMEC_SCALAR int64_t flamec_gcd_u64(uint64_t x, uint64_t y) {
    while (y) {
        uint64_t rest = x % y;
        x = y;
        y = rest;
    }
    return (int64_t)x;
}

FLAMEC_INTEGER_ARITHMETIC(i8, i8, u8)
FLAMEC_INTEGER_ARITHMETIC(i16, i16, u16)
FLAMEC_INTEGER_ARITHMETIC(i32, i32, u32)
FLAMEC_INTEGER_ARITHMETIC(i64, i64, u64)
FLAMEC_INTEGER_ARITHMETIC(u8, i8, u8)
FLAMEC_SIGNED_ARITHMETIC(i8)
FLAMEC_SIGNED_ARITHMETIC(i16)
FLAMEC_SIGNED_ARITHMETIC(i32)
FLAMEC_SIGNED_ARITHMETIC(i64)
FLAMEC_INLINE v_u8 vabs_u8(v_u8 x) { return x; }
FLAMEC_INLINE v_u8 vsign_u8(v_u8 x) { return (v_u8)(x != 0) & 1; }
FLAMEC_INLINE v_b vsignbit_u8(v_u8 x) { (void)x; return vsplat_b(0); }

/* masks --------------------------------------------------------------------------------- */

FLAMEC_INLINE v_b vmaximum_b(v_b x, v_b y) { return x | y; }
FLAMEC_INLINE v_b vminimum_b(v_b x, v_b y) { return x & y; }
FLAMEC_INLINE v_b vabs_b(v_b x) { return x; }
FLAMEC_INLINE v_b vsign_b(v_b x) { return x; }
FLAMEC_INLINE v_b vsignbit_b(v_b x) { return x & 0; }

/* lanes to a scalar ---------------------------------------------------------------------- */

#define FLAMEC_HORIZONTAL(t)                                                               \
    FLAMEC_INLINE c_##t vhsum_##t(v_##t x) {                                               \
        parts_##t p = {x};                                                                 \
        v8_##t h = p.half[0] + p.half[1];                                                  \
        return (c_##t)((c_##t)((c_##t)(h[0] + h[4]) + (c_##t)(h[2] + h[6])) +              \
                       (c_##t)((c_##t)(h[1] + h[5]) + (c_##t)(h[3] + h[7])));              \
    }                                                                                      \
    FLAMEC_INLINE c_##t vhprod_##t(v_##t x) {                                              \
        parts_##t p = {x};                                                                 \
        v8_##t h = p.half[0] * p.half[1];                                                  \
        return (c_##t)((c_##t)((c_##t)(h[0] * h[4]) * (c_##t)(h[2] * h[6])) *              \
                       (c_##t)((c_##t)(h[1] * h[5]) * (c_##t)(h[3] * h[7])));              \
    }                                                                                      \
    FLAMEC_INLINE c_##t vhmax_##t(v_##t x) {                                               \
        c_##t r = x[0];                                                                    \
        for (int i = 1; i < FLAMEC_LANES; i++) r = x[i] > r || x[i] != x[i] ? x[i] : r;    \
        return r;                                                                          \
    }                                                                                      \
    FLAMEC_INLINE c_##t vhmin_##t(v_##t x) {                                               \
        c_##t r = x[0];                                                                    \
        for (int i = 1; i < FLAMEC_LANES; i++) r = x[i] < r || x[i] != x[i] ? x[i] : r;    \
        return r;                                                                          \
    }
FLAMEC_HORIZONTAL(f32)
FLAMEC_HORIZONTAL(f64)
FLAMEC_HORIZONTAL(i8)
FLAMEC_HORIZONTAL(i16)
FLAMEC_HORIZONTAL(i32)
FLAMEC_HORIZONTAL(i64)
FLAMEC_HORIZONTAL(u8)

/* Any and all lanes true, as 0 or 1. */
FLAMEC_INLINE int vhmax_b(v_b x) {
    parts_i32 p = {x};
    v4_i32 q = (p.quarter[0] | p.quarter[1]) | (p.quarter[2] | p.quarter[3]);
    return (q[0] | q[1] | q[2] | q[3]) != 0;
}
FLAMEC_INLINE int vhmin_b(v_b x) { return !vhmax_b(~x); }

#endif
