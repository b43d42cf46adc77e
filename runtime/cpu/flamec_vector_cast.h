/* Conversions between lane types: vcast_{from}_{to} for every pair, and the 16-bit floats.
 *
 * Integers wrap. A float that the integer type cannot hold, and NaN, gives what the conversion
 * instructions of x86 (and so NumPy there) give: the most negative int32 or int64, of which
 * narrower integers keep the low bits. A cast to b tests for nonzero; b gives 0 or 1. */
#ifndef FLAMEC_VECTOR_CAST_H
#define FLAMEC_VECTOR_CAST_H

#define FLAMEC_CAST(from, to)                                                              \
    FLAMEC_INLINE v_##to vcast_##from##_##to(v_##from x) { return FLAMEC_CONVERT(x, to); }
#define FLAMEC_CAST_SELF(t)                                                                \
    FLAMEC_INLINE v_##t vcast_##t##_##t(v_##t x) { return x; }
#define FLAMEC_CAST_BOOL(t)                                                                \
    FLAMEC_INLINE v_b vcast_##t##_b(v_##t x) { return vne_##t(x, vsplat_##t(0)); }         \
    FLAMEC_INLINE v_##t vcast_b_##t(v_b x) { return FLAMEC_CONVERT(x & 1, t); }
#define FLAMEC_CAST_INTEGER(from, a, b, c, d)                                              \
    FLAMEC_CAST(from, f32)                                                                 \
    FLAMEC_CAST(from, f64)                                                                 \
    FLAMEC_CAST_BOOL(from)                                                                 \
    FLAMEC_CAST(from, a)                                                                   \
    FLAMEC_CAST(from, b)                                                                   \
    FLAMEC_CAST(from, c)                                                                   \
    FLAMEC_CAST(from, d)

FLAMEC_CAST_SELF(f32)
FLAMEC_CAST_SELF(f64)
FLAMEC_CAST_SELF(i8)
FLAMEC_CAST_SELF(i16)
FLAMEC_CAST_SELF(i32)
FLAMEC_CAST_SELF(i64)
FLAMEC_CAST_SELF(u8)
FLAMEC_CAST_SELF(b)
FLAMEC_CAST_BOOL(f32)
FLAMEC_CAST_BOOL(f64)
FLAMEC_CAST(f32, f64)
FLAMEC_CAST(f64, f32)
FLAMEC_CAST_INTEGER(i8, i16, i32, i64, u8)
FLAMEC_CAST_INTEGER(i16, i8, i32, i64, u8)
FLAMEC_CAST_INTEGER(i32, i8, i16, i64, u8)
FLAMEC_CAST_INTEGER(i64, i8, i16, i32, u8)
FLAMEC_CAST_INTEGER(u8, i8, i16, i32, i64)

/* Lanes outside [low, -low) are converted as 0 and replaced, so nothing is undefined. */
#define FLAMEC_CAST_FLOAT(from, to, bits, low, replacement)                                \
    FLAMEC_INLINE v_##to vcast_##from##_##to(v_##from x) {                                 \
        v_##bits inside =                                                                  \
            wge_##from(x, vsplat_##from(low)) & wlt_##from(x, vsplat_##from(-(low)));      \
        v_##to value = FLAMEC_CONVERT((v_##from)((v_##bits)x & inside), to);               \
        v_##to keep = FLAMEC_CONVERT(inside, to);                                          \
        return (value & keep) | ((replacement) & ~keep);                                   \
    }
FLAMEC_CAST_FLOAT(f32, i32, i32, -0x1p31f, (-0x7fffffff - 1))
FLAMEC_CAST_FLOAT(f32, i64, i32, -0x1p63f, (-(int64_t)0x7fffffffffffffff - 1))
FLAMEC_CAST_FLOAT(f64, i32, i64, -0x1p31, (-0x7fffffff - 1))
FLAMEC_CAST_FLOAT(f64, i64, i64, -0x1p63, (-(int64_t)0x7fffffffffffffff - 1))

#define FLAMEC_CAST_NARROW(from, to)                                                       \
    FLAMEC_INLINE v_##to vcast_##from##_##to(v_##from x) {                                 \
        return FLAMEC_CONVERT(vcast_##from##_i32(x), to);                                  \
    }
FLAMEC_CAST_NARROW(f32, i8)
FLAMEC_CAST_NARROW(f32, i16)
FLAMEC_CAST_NARROW(f32, u8)
FLAMEC_CAST_NARROW(f64, i8)
FLAMEC_CAST_NARROW(f64, i16)
FLAMEC_CAST_NARROW(f64, u8)

/* The 16-bit floats as bits, widened to float32 lanes and narrowed: to nearest even, NaN kept. */
FLAMEC_INLINE v_f32 vwiden_bf16(v_u16 x) { return (v_f32)(FLAMEC_CONVERT(x, u32) << 16); }
FLAMEC_INLINE n_u32 nnarrow_bf16_u32(n_u32 bits) {
    n_u32 rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    n_u32 nan = (n_u32)((bits & 0x7fffffffu) > 0x7f800000u);
    return (rounded & ~nan) | (((bits >> 16) | 0x40u) & nan);
}
FLAMEC_INLINE n_u32 nwiden_f16_u32(n_u32 bits) {
    n_u32 magnitude = (bits & 0x7fffu) << 13;
    n_u32 special = (n_u32)(magnitude >= 0x0f800000u) & 0x7f800000u;
    n_f32 value = (n_f32)magnitude * 0x1p112f; /* moves the exponent; exact, subnormals too */
    return (n_u32)value | special | ((bits & 0x8000u) << 16);
}
FLAMEC_INLINE n_u32 nnarrow_f16_u32(n_u32 bits) {
    n_u32 magnitude = bits & 0x7fffffffu;
    n_u32 normal = (magnitude + 0xfffu + ((magnitude >> 13) & 1u) - 0x38000000u) >> 13;
    /* Below 2^-14 adding 1/2 rounds to a multiple of 2^-24, the spacing of the subnormals. */
    n_u32 tiny = (n_u32)((n_f32)magnitude + 0.5f) - 0x3f000000u;
    n_u32 is_tiny = (n_u32)(magnitude < 0x38800000u);
    n_u32 is_large = (n_u32)(magnitude >= 0x477ff000u);
    n_u32 is_nan = (n_u32)(magnitude > 0x7f800000u);
    n_u32 large = 0x7c00u | ((0x200u | ((magnitude >> 13) & 0x3ffu)) & is_nan);
    n_u32 finite = (tiny & is_tiny) | (normal & ~is_tiny);
    return ((bits >> 16) & 0x8000u) | (large & is_large) | (finite & ~is_large);
}
FLAMEC_BY_PIECE_1(narrow_bf16, u32)
FLAMEC_BY_PIECE_1(widen_f16, u32)
FLAMEC_BY_PIECE_1(narrow_f16, u32)
FLAMEC_INLINE v_u16 vnarrow_bf16(v_f32 x) {
    return FLAMEC_CONVERT(vnarrow_bf16_u32((v_u32)x), u16);
}
FLAMEC_INLINE v_f32 vwiden_f16(v_u16 x) {
    return (v_f32)vwiden_f16_u32(FLAMEC_CONVERT(x, u32));
}
FLAMEC_INLINE v_u16 vnarrow_f16(v_f32 x) {
    return FLAMEC_CONVERT(vnarrow_f16_u32((v_u32)x), u16);
}
FLAMEC_INLINE v_f32 vround_bf16(v_f32 x) {
    return (v_f32)(vnarrow_bf16_u32((v_u32)x) << 16);
}
FLAMEC_INLINE v_f32 vround_f16(v_f32 x) {
    return (v_f32)vwiden_f16_u32(vnarrow_f16_u32((v_u32)x));
}

#endif
