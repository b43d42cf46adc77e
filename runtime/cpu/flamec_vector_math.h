/* Exponentials, logarithms and their kin by argument reduction and polynomials.
 *
 * Largest errors found in a sweep over all float32, in units in the last place: exp 0.9, log 0.8,
 * tanh 1.3, erf 1.1 (1.3 without multiply-add), sigmoid 2.3, expm1 1.6, log1p 0.8, sin and cos
 * 1.5; float64: exp and log below 1, tanh and sigmoid below 2.5. The coefficients come from
 * derive_polynomials.py. NaN goes through every step as NaN: a bound is applied by a comparison
 * that NaN fails, and integers are taken from the bits of a float, never by a conversion. */
#ifndef FLAMEC_VECTOR_MATH_H
#define FLAMEC_VECTOR_MATH_H

#define FLAMEC_POLYNOMIAL(t)                                                               \
    FLAMEC_INLINE n_##t npolynomial_##t(n_##t x, const c_##t *c, int count) {              \
        n_##t sum = x * c[count - 1] + c[count - 2];                                       \
        for (int i = count - 3; i >= 0; i--) sum = sum * x + c[i];                         \
        return sum;                                                                        \
    }                                                                                      \
    FLAMEC_INLINE n_##t nsplat_##t(c_##t x) { return (n_##t){0} + x; }
FLAMEC_POLYNOMIAL(f32)
FLAMEC_POLYNOMIAL(f64)

/* exp ----------------------------------------------------------------------------------- */

/* x = n ln 2 + r with |r| <= ln 2 / 2; gives (e^r - 1) and, through `n`, the integer n. Adding
 * 1.5 * 2^23 leaves n in the low bits. ln 2 is split so that n times its head is exact, and the
 * rounding of r is kept out of the linear term. */
FLAMEC_INLINE n_f32 nexp_reduced_f32(n_f32 x, n_i32 *n) {
    static const float c[] = {0x1.0p-1f, 0x1.55548ap-3f, 0x1.55552ap-5f, 0x1.123f28p-7f,
                              0x1.6ce996p-10f};
    n_f32 shifted = x * 0x1.715476p+0f + 0x1.8p23f;
    n_f32 whole = shifted - 0x1.8p23f;
    n_f32 head = x - whole * 0x1.62e4p-1f, tail = whole * 0x1.7f7d1cp-20f;
    n_f32 r = head - tail;
    *n = (n_i32)shifted - 0x4b400000;
    return head + (npolynomial_f32(r, c, 5) * (r * r) - tail);
}
/* 2^n for -126 <= n <= 127. */
FLAMEC_INLINE n_f32 npower_of_two_f32(n_i32 n) { return (n_f32)((n + 127) << 23); }

/* Scales in two steps, so that subnormal results are rounded once. What overflows is scaled by
 * infinities: an infinity less it is NaN also where the compiler makes one operation of the last
 * product and a subtraction. */
FLAMEC_INLINE n_f32 nexp_f32(n_f32 x) {
    n_i32 n;
    x = nsel_f32(x > 0x1.62e42ep6f, nsplat_f32(0x1.62e43p7f), x); /* 256 ln 2 */
    x = nsel_f32(x < -104.0f, nsplat_f32(-104.0f), x);
    n_f32 y = nexp_reduced_f32(x, &n) + 1.0f;
    n_i32 first = n >> 1;
    return y * npower_of_two_f32(first) * npower_of_two_f32(n - first);
}
/* For -87 <= x <= 88: one scaling. */
FLAMEC_INLINE n_f32 nexp_bounded_f32(n_f32 x) {
    n_i32 n;
    n_f32 y = nexp_reduced_f32(x, &n) + 1.0f;
    return y * npower_of_two_f32(n);
}
/* 2^n (e^r - 1) + (2^n - 1). From 17 ln 2 on the -1 is below the last place. */
FLAMEC_INLINE n_f32 nexpm1_f32(n_f32 x) {
    n_i32 n;
    n_f32 bounded = nsel_f32(x > 80.0f, nsplat_f32(80.0f), x);
    bounded = nsel_f32(bounded < -20.0f, nsplat_f32(-20.0f), bounded);
    n_f32 part = nexp_reduced_f32(bounded, &n);
    n_f32 scale = npower_of_two_f32(n);
    n_f32 y = part * scale + (scale - 1.0f);
    y = nsel_f32(x > 80.0f, nexp_f32(x), y);
    return nsel_f32(x == 0.0f, x, y);
}

FLAMEC_INLINE n_f64 nexp_reduced_f64(n_f64 x, n_i64 *n) {
    static const double c[] = {
        0x1.0p-1,
        0x1.555555555555cp-3,
        0x1.555555555555ep-5,
        0x1.111111110ebb4p-7,
        0x1.6c16c16c13574p-10,
        0x1.a01a01b3ba709p-13,
        0x1.a01a01b4595b4p-16,
        0x1.71ddef9590d99p-19,
        0x1.27e4bf2bd0377p-22,
        0x1.af6cc9b453137p-26,
        0x1.1f9df32ea470ep-29,
    };
    n_f64 shifted = x * 0x1.71547652b82fep+0 + 0x1.8p52;
    n_f64 whole = shifted - 0x1.8p52;
    n_f64 head = x - whole * 0x1.62e42feep-1, tail = whole * 0x1.a39ef35793c76p-33;
    n_f64 r = head - tail;
    *n = (n_i64)shifted - 0x4338000000000000;
    return head + (npolynomial_f64(r, c, 11) * (r * r) - tail);
}
FLAMEC_INLINE n_f64 npower_of_two_f64(n_i64 n) { return (n_f64)((n + 1023) << 52); }
FLAMEC_INLINE n_f64 nexp_f64(n_f64 x) {
    n_i64 n;
    x = nsel_f64(x > 0x1.62e42fefa39efp9, nsplat_f64(0x1.62e42fefa39efp10), x); /* 2048 ln 2 */
    x = nsel_f64(x < -746.0, nsplat_f64(-746.0), x);
    n_f64 y = nexp_reduced_f64(x, &n) + 1.0;
    /* n / 2 without a 64-bit arithmetic shift, which AVX2 lacks: n + 2048 is positive. */
    n_i64 first = (n_i64)((n_u64)(n + 2048) >> 1) - 1024;
    return y * npower_of_two_f64(first) * npower_of_two_f64(n - first);
}

/* log ----------------------------------------------------------------------------------- */

/* The infinities, 0 and negatives for logarithms: `y` where 0 < x < infinity. */
FLAMEC_INLINE n_f32 nlog_special_f32(n_f32 x, n_f32 y) {
    y = nsel_f32(x < __builtin_inff(), y, x); /* infinity and NaN are their own logarithms */
    y = nsel_f32(x < 0.0f, nsplat_f32(__builtin_nanf("")), y);
    return nsel_f32(x == 0.0f, nsplat_f32(-__builtin_inff()), y);
}
/* x = 2^k (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)); ln x = k ln 2 + f - f^2/2 + f^3 P(f).
 * `low` is added to the mantissa's part: a correction to x relative to x. */
FLAMEC_INLINE n_f32 nlog_positive_f32(n_f32 x, n_f32 low) {
    static const float c[] = {0x1.555554p-2f, -0x1.ffffdp-3f,  0x1.999ab4p-3f, -0x1.5564d2p-3f,
                              0x1.2479d4p-3f, -0x1.fc9f36p-4f, 0x1.c633fep-4f, -0x1.bf32ecp-4f,
                              0x1.aaaffep-4f, -0x1.c5f26cp-5f};
    n_i32 tiny = (n_i32)(x < 0x1p-126f);
    x = nsel_f32(tiny, x * 0x1p23f, x);
    n_i32 bits = (n_i32)x - 0x3f3504f3; /* the bits of sqrt(1/2) */
    n_i32 k = bits >> 23;
    n_f32 f = (n_f32)((bits & 0x007fffff) + 0x3f3504f3) - 1.0f;
    n_f32 whole = __builtin_convertvector(k - (tiny & 23), n_f32);
    n_f32 square = f * f;
    n_f32 rest = npolynomial_f32(f, c, 10) * f * square + (whole * 0x1.7f7d1cp-20f + low);
    return (rest - 0.5f * square) + f + whole * 0x1.62e4p-1f;
}
FLAMEC_INLINE n_f32 nlog_f32(n_f32 x) {
    return nlog_special_f32(x, nlog_positive_f32(x, nsplat_f32(0.0f)));
}
/* With u = 1 + x rounded, ln(1 + x) = ln u + (1 + x - u) / u. */
FLAMEC_INLINE n_f32 nlog1p_f32(n_f32 x) {
    n_f32 u = 1.0f + x;
    n_f32 lost = nsel_f32(nabs_f32(x) < 1.0f, x - (u - 1.0f), 1.0f - (u - x));
    n_f32 y = nlog_special_f32(u, nlog_positive_f32(u, lost / u));
    return nsel_f32(nabs_f32(x) < 0x1p-25f, x, y);
}

/* ln(1 + f) = f - (f^2/2 - s (f^2/2 + s^2 R(s^2))) with s = f / (2 + f): 2 atanh s. */
FLAMEC_INLINE n_f64 nlog_f64(n_f64 x) {
    static const double c[] = {0x1.5555555555593p-1, 0x1.999999997fca0p-2, 0x1.2492494201c78p-2,
                               0x1.c71c51faec091p-3, 0x1.7466420d223b8p-3, 0x1.39a165266f3f7p-3,
                               0x1.2f08ece248ac3p-3};
    const int64_t half = 0x3fe6a09e667f3bcd; /* the bits of sqrt(1/2) */
    n_i64 tiny = (n_i64)(x < 0x1p-1022);
    n_f64 scaled = nsel_f64(tiny, x * 0x1p52, x);
    n_i64 bits = (n_i64)scaled - half;
    n_i64 k = (n_i64)((n_u64)(bits + 0x4000000000000000) >> 52) - 1024 - (tiny & 52);
    n_f64 f = (n_f64)((bits & 0x000fffffffffffff) + half) - 1.0;
    /* k as a double, by the trick of nexp_reduced_f64 backwards */
    n_f64 whole = (n_f64)(k + 0x4338000000000000) - 0x1.8p52;
    n_f64 s = f / (2.0 + f), z = s * s, square = 0.5 * f * f;
    n_f64 rest = s * (square + npolynomial_f64(z, c, 7) * z) + whole * 0x1.a39ef35793c76p-33;
    n_f64 y = whole * 0x1.62e42feep-1 - ((square - rest) - f);
    y = nsel_f64(x < __builtin_inf(), y, x);
    y = nsel_f64(x < 0.0, nsplat_f64(__builtin_nan("")), y);
    return nsel_f64(x == 0.0, nsplat_f64(-__builtin_inf()), y);
}

/* sigmoid, tanh, erf ---------------------------------------------------------------------- */

/* With e = exp(-|x|) nothing overflows and small results keep their digits. */
#define FLAMEC_SIGMOID(t)                                                                  \
    FLAMEC_INLINE n_##t nsigmoid_##t(n_##t x) {                                            \
        n_##t e = nexp_##t(-nabs_##t(x));                                                  \
        return nsel_##t(x < 0, e, nsplat_##t(1)) / (1 + e);                                \
    }
FLAMEC_SIGMOID(f32)
FLAMEC_SIGMOID(f64)

/* An odd polynomial below 5/8, 1 - 2 / (exp(2|x|) + 1) from there on. */
FLAMEC_INLINE n_f32 ntanh_f32(n_f32 x) {
    static const float c[] = {-0x1.555534p-2f, 0x1.11075ep-3f, -0x1.b842c4p-5f, 0x1.524c4p-6f,
                              -0x1.767a14p-8f};
    n_f32 size = nabs_f32(x), square = x * x;
    n_f32 near = npolynomial_f32(square, c, 5) * square * size + size;
    n_f32 e = nexp_bounded_f32(nsel_f32(size > 10.0f, nsplat_f32(20.0f), size + size));
    n_f32 far = 1.0f - 2.0f / (e + 1.0f);
    return ncopysign_f32(nsel_f32(size < 0.625f, near, far), x);
}
FLAMEC_INLINE n_f64 ntanh_f64(n_f64 x) {
    static const double c[] = {
        -0x1.5555555555503p-2, 0x1.111111110afeep-3,   -0x1.ba1ba1b5272cep-5,
        0x1.664f4780333b2p-6,  -0x1.226e16abbbd36p-7,  0x1.d6cf36ce53fc9p-9,
        -0x1.7d692e65898d8p-10, 0x1.33695bf9e6a48p-11, -0x1.df6e0fd417f87p-13,
        0x1.43c5025369bc3p-14, -0x1.0e05884522f50p-16,
    };
    n_f64 size = nabs_f64(x), square = x * x;
    n_f64 near = npolynomial_f64(square, c, 11) * square * size + size;
    n_f64 e = nexp_f64(nsel_f64(size > 25.0, nsplat_f64(50.0), size + size));
    n_f64 far = 1.0 - 2.0 / (e + 1.0);
    return ncopysign_f64(nsel_f64(size < 0.625, near, far), x);
}

/* An odd polynomial below 0.9, 1 - exp(-Q(|x|)) with Q = -ln erfc from there on. */
FLAMEC_INLINE n_f32 nerf_f32(n_f32 x) {
    static const float near_c[] = {0x1.06eba8p-3f,  -0x1.81274p-2f, 0x1.ce2d6p-4f,
                                   -0x1.b80074p-6f, 0x1.5440e2p-8f, -0x1.a5a06cp-11f,
                                   0x1.4dc2eap-14f};
    static const float far_c[] = {-0x1.65abc6p-13f, 0x1.212698p+0f,  0x1.444b42p-1f,
                                  0x1.bb5656p-4f,   -0x1.9b199ap-6f, 0x1.10aacp-8f,
                                  -0x1.c5502cp-12f, 0x1.5ed01ap-16f};
    n_f32 size = nabs_f32(x);
    n_f32 near = npolynomial_f32(x * x, near_c, 7) * size + size;
    n_f32 bounded = nsel_f32(size > 4.0f, nsplat_f32(4.0f), size);
    n_f32 far = 1.0f - nexp_bounded_f32(-npolynomial_f32(bounded, far_c, 8));
    return ncopysign_f32(nsel_f32(size < 0.9f, near, far), x);
}
FLAMEC_UNARY_LANES(erf, f64, __builtin_erf(x))

FLAMEC_BY_PIECE_1(exp, f32)
FLAMEC_BY_PIECE_1(expm1, f32)
FLAMEC_BY_PIECE_1(log, f32)
FLAMEC_BY_PIECE_1(log1p, f32)
FLAMEC_BY_PIECE_1(sigmoid, f32)
FLAMEC_BY_PIECE_1(tanh, f32)
FLAMEC_BY_PIECE_1(erf, f32)
FLAMEC_BY_PIECE_1(exp, f64)
FLAMEC_BY_PIECE_1(log, f64)
FLAMEC_BY_PIECE_1(sigmoid, f64)
FLAMEC_BY_PIECE_1(tanh, f64)

/* sin, cos ------------------------------------------------------------------------------- */

FLAMEC_UNARY_LANES(sin, f64, __builtin_sin(x))
FLAMEC_UNARY_LANES(cos, f64, __builtin_cos(x))
FLAMEC_UNARY_LANES(sin_libm, f32, __builtin_sinf(x))
FLAMEC_UNARY_LANES(cos_libm, f32, __builtin_cosf(x))

#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
/* x = n pi/2 + r with |r| <= pi/4, for |x| <= 2^15: pi/2 in three parts, of which the first
 * leaves an exact difference because the multiply-add rounds once. Adding `quarter` = 1 to n gives
 * the cosine, which is even; the sine is odd. */
FLAMEC_INLINE n_f32 nsine_f32(n_f32 signed_x, int quarter) {
    static const float sine[] = {-0x1.555556p-3f, 0x1.111176p-7f, -0x1.a05bbcp-13f,
                                 0x1.7cd934p-19f};
    static const float cosine[] = {0x1.555556p-5f, -0x1.6c1762p-10f, 0x1.a075eap-16f,
                                   -0x1.372522p-22f};
    n_f32 x = nabs_f32(signed_x);
    n_i32 sign = quarter ? (n_i32){0} : (n_i32)signed_x & nsign_bit_f32();
    n_f32 shifted = x * 0x1.45f306p-1f + 0x1.8p23f;
    n_f32 whole = shifted - 0x1.8p23f;
    n_i32 n = (n_i32)shifted + quarter;
    n_f32 r = x - whole * 0x1.921fb6p+0f;
    r = r + whole * 0x1.777a5cp-25f;
    r = r + whole * 0x1.ee59dap-50f;
    n_f32 z = r * r;
    n_f32 s = npolynomial_f32(z, sine, 4) * z * r + r;
    n_f32 half = 0.5f * z, one_less = 1.0f - half;
    n_f32 c = one_less + (npolynomial_f32(z, cosine, 4) * (z * z) + ((1.0f - one_less) - half));
    n_f32 y = nsel_f32((n & 1) == 1, c, s);
    return (n_f32)((n_i32)y ^ ((n & 2) << 30) ^ sign);
}
#define FLAMEC_SINE(name, quarter)                                                         \
    FLAMEC_INLINE v_f32 v##name##_f32(v_f32 x) {                                           \
        if (vhmax_b(~vle_f32(vabs_f32(x), vsplat_f32(0x1p15f)))) return v##name##_libm_f32(x); \
        parts_f32 p = {x};                                                                 \
        for (int i = 0; i < FLAMEC_PIECES(f32); i++) p.piece[i] = nsine_f32(p.piece[i], quarter); \
        return p.whole;                                                                    \
    }
FLAMEC_SINE(sin, 0)
FLAMEC_SINE(cos, 1)
#else
FLAMEC_INLINE v_f32 vsin_f32(v_f32 x) { return vsin_libm_f32(x); }
FLAMEC_INLINE v_f32 vcos_f32(v_f32 x) { return vcos_libm_f32(x); }
#endif

#endif
