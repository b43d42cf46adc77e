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
/* A lane with the operands of the lane before it has its result: one number in all lanes costs
 * as much as one. */
#define FLAMEC_BINARY_LANES(name, t, expression)                                           \
    FLAMEC_OUTLINE v_##t v##name##_##t(v_##t left, v_##t right) {                          \
        parts_##t r = {left}, s = {right};                                                 \
        c_##t result = 0, before[2] = {0, 0};                                              \
        for (int i = 0; i < FLAMEC_LANES; i++) {                                           \
            c_##t x = r.lane[i], y = s.lane[i], now[2] = {x, y};                           \
            if (!i || __builtin_memcmp(now, before, sizeof now)) result = (expression);    \
            __builtin_memcpy(before, now, sizeof now);                                     \
            r.lane[i] = result;                                                            \
        }                                                                                  \
        return r.whole;                                                                    \
    }

/* floats ------------------------------------------------------------------------------- */

/* magic: 2^(mantissa bits); adding and subtracting it rounds to an integer, half to even. */
#define FLAMEC_FLOAT_ARITHMETIC(t, bits, magic, sqrt_lane)                                 \
    FLAMEC_INLINE n_##bits nsign_bit_##t(void) { return (n_##bits)(-(n_##t){0}); }         \
    FLAMEC_INLINE n_##t nabs_##t(n_##t x) { return (n_##t)((n_##bits)x & ~nsign_bit_##t()); } \
    FLAMEC_INLINE n_##t ncopysign_##t(n_##t x, n_##t y) {                                  \
        n_##bits sign = nsign_bit_##t();                                                   \
        return (n_##t)(((n_##bits)x & ~sign) | ((n_##bits)y & sign));                      \
    }                                                                                      \
    FLAMEC_INLINE v_b vsignbit_##t(v_##t x) {                                              \
        return FLAMEC_CONVERT((v_##bits)x >> (8 * sizeof(c_##t) - 1), i32);                \
    }                                                                                      \
    FLAMEC_INLINE n_##t nsign_##t(n_##t x) {                                               \
        n_##t one = (n_##t){0} + 1;                                                        \
        return (n_##t)(((n_##bits)(x > 0) & (n_##bits)one) |                               \
                       ((n_##bits)(x < 0) & (n_##bits)-one) | ((x != x) & (n_##bits)x));   \
    }                                                                                      \
    FLAMEC_INLINE n_##t nmaximum_##t(n_##t x, n_##t y) {                                   \
        return nsel_##t((x > y) | (x != x), x, y);                                         \
    }                                                                                      \
    FLAMEC_INLINE n_##t nminimum_##t(n_##t x, n_##t y) {                                   \
        return nsel_##t((x < y) | (x != x), x, y);                                         \
    }                                                                                      \
    FLAMEC_INLINE v_##t vsqrt_##t(v_##t x) {                                               \
        parts_##t r = {x};                                                                 \
        for (int i = 0; i < FLAMEC_LANES; i++) r.lane[i] = sqrt_lane(r.lane[i]);           \
        return r.whole;                                                                    \
    }                                                                                      \
    FLAMEC_INLINE v_##t vrsqrt_##t(v_##t x) { return 1 / vsqrt_##t(x); }                   \
    FLAMEC_INLINE n_##t nround_##t(n_##t x) {                                              \
        n_##t size = nabs_##t(x);                                                          \
        n_##t whole = (size + (magic)) - (magic);                                          \
        return ncopysign_##t(nsel_##t(size < (magic), whole, size), x);                    \
    }                                                                                      \
    FLAMEC_INLINE n_##t nfloor_##t(n_##t x) {                                              \
        n_##t r = nround_##t(x), one = (n_##t){0} + 1;                                     \
        return ncopysign_##t(r - (n_##t)((n_##bits)(r > x) & (n_##bits)one), x);           \
    }                                                                                      \
    FLAMEC_INLINE n_##t nceil_##t(n_##t x) {                                               \
        n_##t r = nround_##t(x), one = (n_##t){0} + 1;                                     \
        return ncopysign_##t(r + (n_##t)((n_##bits)(r < x) & (n_##bits)one), x);           \
    }                                                                                      \
    FLAMEC_INLINE n_##t ntrunc_##t(n_##t x) {                                              \
        return ncopysign_##t(nfloor_##t(nabs_##t(x)), x);                                  \
    }                                                                                      \
    FLAMEC_BY_PIECE_1(abs, t)                                                              \
    FLAMEC_BY_PIECE_1(sign, t)                                                             \
    FLAMEC_BY_PIECE_1(round, t)                                                            \
    FLAMEC_BY_PIECE_1(floor, t)                                                            \
    FLAMEC_BY_PIECE_1(ceil, t)                                                             \
    FLAMEC_BY_PIECE_1(trunc, t)                                                            \
    FLAMEC_BY_PIECE_2(copysign, t)                                                         \
    FLAMEC_BY_PIECE_2(maximum, t)                                                          \
    FLAMEC_BY_PIECE_2(minimum, t)

/* Sums that carry along what rounding loses (TwoSum: Knuth, The Art of Computer Programming 2, 4.2.2,
 * theorem B). Where a sum is infinite, what was lost is no number, and does not count. */
#define FLAMEC_COMPENSATED_SUMS(t)                                                         \
    FLAMEC_INLINE void vadd_exactly_##t(v_##t *sum, v_##t *lost, v_##t x) {                \
        v_##t whole = *sum + x, added = whole - *sum;                                      \
        *lost += (*sum - (whole - added)) + (x - added);                                   \
        *sum = whole;                                                                      \
    }                                                                                      \
    FLAMEC_INLINE v_##t vsettled_##t(v_##t sum, v_##t lost) {                              \
        return vsel_##t(veq_##t(lost, lost), sum + lost, sum);                             \
    }

FLAMEC_FLOAT_ARITHMETIC(f32, i32, 0x1p23f, __builtin_sqrtf)
FLAMEC_FLOAT_ARITHMETIC(f64, i64, 0x1p52, __builtin_sqrt)
FLAMEC_COMPENSATED_SUMS(f32)
FLAMEC_COMPENSATED_SUMS(f64)

/* Python's division of floats: the remainder has the divisor's sign, the quotient is the floor
 * and is snapped to an integer against rounding (as CPython's float_divmod does). */
#define FLAMEC_FLOAT_DIVISION(t, s, suffix)                                                \
    FLAMEC_SCALAR c_##t flamec_remainder_##t(c_##t x, c_##t y) {   \
        c_##t r = __builtin_fmod##s(x, y);                                                 \
        if (!y) return r;                                                                  \
        if (!r) return __builtin_copysign##s(0, y);                                        \
        return (y < 0) != (r < 0) ? r + y : r;                                             \
    }                                                                                      \
    FLAMEC_SCALAR c_##t flamec_floor_divide_##t(c_##t x, c_##t y) { \
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

#define FLAMEC_INTEGER_ARITHMETIC(t, bits, unsigned_type)                                  \
    FLAMEC_INLINE n_##t nmaximum_##t(n_##t x, n_##t y) {                                   \
        return nsel_##t((n_##bits)(x > y), x, y);                                          \
    }                                                                                      \
    FLAMEC_INLINE n_##t nminimum_##t(n_##t x, n_##t y) {                                   \
        return nsel_##t((n_##bits)(x < y), x, y);                                          \
    }                                                                                      \
    FLAMEC_BY_PIECE_2(maximum, t)                                                          \
    FLAMEC_BY_PIECE_2(minimum, t)                                                          \
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
    FLAMEC_INLINE n_##t nshift_left_##t(n_##t x, n_##t y) {                                \
        n_##t inside = (n_##t)((n_##unsigned_type)y < 8 * sizeof(c_##t));                  \
        n_##unsigned_type amount = (n_##unsigned_type)(y & inside);                        \
        return (n_##t)((n_##unsigned_type)x << amount) & inside;                           \
    }                                                                                      \
    FLAMEC_INLINE n_##t nshift_right_##t(n_##t x, n_##t y) {                               \
        n_##t inside = (n_##t)((n_##unsigned_type)y < 8 * sizeof(c_##t));                  \
        return ((x >> (y & inside)) & inside) | ((n_##t)(x < 0) & ~inside);                \
    }                                                                                      \
    FLAMEC_BY_PIECE_2(shift_left, t)                                                       \
    FLAMEC_BY_PIECE_2(shift_right, t)
#define FLAMEC_SIGNED_ARITHMETIC(t)                                                        \
    FLAMEC_INLINE v_##t vabs_##t(v_##t x) {                                                \
        v_##t sign = x >> (8 * sizeof(c_##t) - 1);                                         \
        return (x ^ sign) - sign;                                                          \
    }                                                                                      \
    FLAMEC_INLINE n_##t nsign_##t(n_##t x) { return (n_##t)(x < 0) - (n_##t)(x > 0); }     \
    FLAMEC_BY_PIECE_1(sign, t)                                                             \
    FLAMEC_INLINE v_b vsignbit_##t(v_##t x) {                                              \
        return FLAMEC_CONVERT(x >> (8 * sizeof(c_##t) - 1), i32);                          \
    }

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
FLAMEC_INLINE v_u8 vsign_u8(v_u8 x) { return vcast_b_u8(vcast_u8_b(x)); }
FLAMEC_INLINE v_b vsignbit_u8(v_u8 x) { (void)x; return vsplat_b(0); }

/* masks --------------------------------------------------------------------------------- */

FLAMEC_INLINE v_b vmaximum_b(v_b x, v_b y) { return x | y; }
FLAMEC_INLINE v_b vminimum_b(v_b x, v_b y) { return x & y; }
FLAMEC_INLINE v_b vabs_b(v_b x) { return x; }
FLAMEC_INLINE v_b vsign_b(v_b x) { return x; }
FLAMEC_INLINE v_b vsignbit_b(v_b x) { return x & 0; }

/* lanes to a scalar ---------------------------------------------------------------------- */

#define FLAMEC_FOLD(name, t, vector_step, lane_step)                                       \
    FLAMEC_INLINE c_##t vh##name##_##t(v_##t vector) {                                     \
        parts_##t p = {vector};                                                            \
        q_##t x = p.quad[0];                                                               \
        for (int i = 1; i < FLAMEC_QUADS(t); i++) {                                        \
            q_##t y = p.quad[i];                                                           \
            x = vector_step;                                                               \
        }                                                                                  \
        c_##t r = x[0];                                                                    \
        for (unsigned i = 1; i < sizeof(q_##t) / sizeof(c_##t); i++) {                     \
            c_##t y = x[i];                                                                \
            r = (c_##t)(lane_step);                                                        \
        }                                                                                  \
        return r;                                                                          \
    }
#define FLAMEC_CHOOSE(t, bits, relation)                                                   \
    (q_##t)(((q_##bits)x & (q_##bits)((x relation y) | (x != x))) |                        \
            ((q_##bits)y & ~(q_##bits)((x relation y) | (x != x))))
#define FLAMEC_HORIZONTAL(t, bits)                                                         \
    FLAMEC_FOLD(sum, t, x + y, r + y)                                                      \
    FLAMEC_FOLD(prod, t, x * y, r * y)                                                     \
    FLAMEC_FOLD(max, t, FLAMEC_CHOOSE(t, bits, >), r > y || r != r ? r : y)                \
    FLAMEC_FOLD(min, t, FLAMEC_CHOOSE(t, bits, <), r < y || r != r ? r : y)
FLAMEC_HORIZONTAL(f32, i32)
FLAMEC_HORIZONTAL(f64, i64)
FLAMEC_HORIZONTAL(i8, i8)
FLAMEC_HORIZONTAL(i16, i16)
FLAMEC_HORIZONTAL(i32, i32)
FLAMEC_HORIZONTAL(i64, i64)
FLAMEC_HORIZONTAL(u8, i8)

/* Any and all lanes true, as 0 or 1. */
FLAMEC_INLINE int vhmax_b(v_b x) {
    parts_i32 p = {x};
    q_i32 any = p.quad[0];
    for (int i = 1; i < FLAMEC_QUADS(i32); i++) any |= p.quad[i];
    return (any[0] | any[1] | any[2] | any[3]) != 0;
}
FLAMEC_INLINE int vhmin_b(v_b x) { return !vhmax_b(~x); }

#endif
