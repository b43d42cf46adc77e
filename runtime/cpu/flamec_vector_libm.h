/* Rarer functions: libm once a lane, and scalars of our own where libm has none.
 *
 * Some of libm's functions of floats are several units off: those are computed in double. Link with
 * -lm. */
#ifndef FLAMEC_VECTOR_LIBM_H
#define FLAMEC_VECTOR_LIBM_H

#define FLAMEC_LIBM(t, s)                                                                  \
    FLAMEC_UNARY_LANES(exp2, t, __builtin_exp2##s(x))                                      \
    FLAMEC_UNARY_LANES(log2, t, __builtin_log2##s(x))                                      \
    FLAMEC_UNARY_LANES(log10, t, __builtin_log10##s(x))                                    \
    FLAMEC_UNARY_LANES(tan, t, __builtin_tan##s(x))                                        \
    FLAMEC_UNARY_LANES(asin, t, __builtin_asin##s(x))                                      \
    FLAMEC_UNARY_LANES(acos, t, __builtin_acos##s(x))                                      \
    FLAMEC_UNARY_LANES(atan, t, __builtin_atan##s(x))                                      \
    FLAMEC_UNARY_LANES(sinh, t, __builtin_sinh##s(x))                                      \
    FLAMEC_UNARY_LANES(cosh, t, __builtin_cosh##s(x))                                      \
    FLAMEC_UNARY_LANES(asinh, t, (c_##t)__builtin_asinh(x))                                \
    FLAMEC_UNARY_LANES(acosh, t, (c_##t)__builtin_acosh(x))                                \
    FLAMEC_UNARY_LANES(atanh, t, (c_##t)__builtin_atanh(x))                                \
    FLAMEC_UNARY_LANES(erfc, t, (c_##t)__builtin_erfc(x))                                  \
    FLAMEC_UNARY_LANES(lgamma, t, (c_##t)__builtin_lgamma(x))                              \
    FLAMEC_UNARY_LANES(erfinv, t, (c_##t)flamec_erfinv(x))                                 \
    FLAMEC_UNARY_LANES(digamma, t, (c_##t)flamec_digamma(x))                               \
    FLAMEC_UNARY_LANES(polygamma1, t, (c_##t)flamec_trigamma(x))                           \
    FLAMEC_BINARY_LANES(pow, t, __builtin_pow##s(x, y))                                    \
    FLAMEC_BINARY_LANES(atan2, t, __builtin_atan2##s(x, y))

#define FLAMEC_PI 3.14159265358979323846

/* Inverse error function: a start from the inverted closed form of Winitzki (2008), then Halley
 * steps on erf, or on erfc in the tail, which converge to the last bits. */
FLAMEC_SCALAR double flamec_erfinv(double x) {
    double size = __builtin_fabs(x);
    if (!(size < 1)) return size == 1 ? x * __builtin_inf() : __builtin_nan("");
    if (size < 1e-8) return x * 0.88622692545275801365;
    double w = -__builtin_log((1 - size) * (1 + size));
    double c = 2 / (FLAMEC_PI * 0.147) - w / 2;
    double y = __builtin_sqrt(__builtin_sqrt(c * c + w / 0.147) - c);
    for (int step = 0; step < 3; step++) {
        double error = size < 0.5 ? __builtin_erf(y) - size : (1 - size) - __builtin_erfc(y);
        double newton = error / (1.12837916709551257390 * __builtin_exp(-y * y));
        y -= newton / (1 + y * newton);
    }
    return __builtin_copysign(y, x);
}

/* Recurrence up to 10, then the asymptotic series (DLMF 5.11.2); reflection below 0 (5.5.4). */
FLAMEC_SCALAR double flamec_digamma(double x) {
    if (x == 0) return __builtin_copysign(__builtin_inf(), -x);
    double result = 0;
    if (x < 0) {
        double part = x - __builtin_rint(x);
        if (!(part != 0)) return __builtin_nan("");
        result = -FLAMEC_PI / __builtin_tan(FLAMEC_PI * part);
        x = 1 - x;
    }
    while (x < 10) {
        result -= 1 / x;
        x += 1;
    }
    double s = 1 / (x * x);
    double series = s * (1. / 12 - s * (1. / 120 - s * (1. / 252 - s * (1. / 240 -
                    s * (1. / 132 - s * (691. / 32760 - s * (1. / 12)))))));
    if (x > 1e17) series = 0;
    return result + __builtin_log(x) - 0.5 / x - series;
}

/* The derivative of digamma, by the same recurrence, series (DLMF 5.15.8) and reflection. */
FLAMEC_SCALAR double flamec_trigamma(double x) {
    double sign = 1, result = 0;
    if (x <= 0) {
        double part = x - __builtin_rint(x);
        if (part == 0) return __builtin_inf();
        double sine = __builtin_sin(FLAMEC_PI * part);
        result = FLAMEC_PI * FLAMEC_PI / (sine * sine);
        x = 1 - x;
        sign = -1;
    }
    double sum = 0;
    while (x < 10) {
        sum += 1 / (x * x);
        x += 1;
    }
    double s = 1 / (x * x);
    double series = s * (1. / 6 - s * (1. / 30 - s * (1. / 42 - s * (1. / 30 -
                    s * (5. / 66 - s * (691. / 2730 - s * (7. / 6)))))));
    return result + sign * (sum + (1 + 0.5 / x + series) / x);
}

FLAMEC_LIBM(f32, f)
FLAMEC_LIBM(f64, )
FLAMEC_UNARY_LANES(expm1, f64, __builtin_expm1(x))
FLAMEC_UNARY_LANES(log1p, f64, __builtin_log1p(x))

#endif
