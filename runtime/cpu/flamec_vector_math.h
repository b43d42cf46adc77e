/* Exponentials, logarithms and their kin as polynomials over whole vectors. */
#ifndef FLAMEC_VECTOR_MATH_H
#define FLAMEC_VECTOR_MATH_H

#define FLAMEC_HOT(t, s, suffix)                                                           \
    FLAMEC_UNARY_LANES(exp, t, __builtin_exp##s(x))                                        \
    FLAMEC_UNARY_LANES(log, t, __builtin_log##s(x))                                        \
    FLAMEC_UNARY_LANES(tanh, t, __builtin_tanh##s(x))                                      \
    FLAMEC_UNARY_LANES(erf, t, __builtin_erf##s(x))                                        \
    FLAMEC_UNARY_LANES(sigmoid, t, 1 / (1 + __builtin_exp##s(-x)))                         \
    FLAMEC_UNARY_LANES(sin, t, __builtin_sin##s(x))                                        \
    FLAMEC_UNARY_LANES(cos, t, __builtin_cos##s(x))
FLAMEC_HOT(f32, f, f)
FLAMEC_HOT(f64, , )

#endif
