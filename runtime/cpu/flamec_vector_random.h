/* Counter-based random bits: Philox4x32-10.
 *
 * In: element indices, seed, offset. Out: for element i, word i mod 4 of the block whose 64-bit
 * counter is offset + i div 4 (counter words 2 and 3 are 0); the seed is the key. Source:
 * Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011, section 3.3. */
#ifndef FLAMEC_VECTOR_RANDOM_H
#define FLAMEC_VECTOR_RANDOM_H

#define FLAMEC_LOW_WORD 0xffffffffu

#define FLAMEC_MULTIPLIER_0 0xD2511F53u
#define FLAMEC_MULTIPLIER_1 0xCD9E8D57u
#define FLAMEC_WEYL_0 0x9E3779B9u
#define FLAMEC_WEYL_1 0xBB67AE85u

/* Ten rounds over blocks side by side, which are `count` vectors so that no round waits for the one
 * before; each word lies in the low half of a 64-bit lane. */
#define FLAMEC_PHILOX(name, vector, count, multiply)                                       \
    FLAMEC_INLINE void name(const vector *counter, int64_t seed, vector words[][4]) {      \
        uint32_t key0 = (uint32_t)seed, key1 = (uint32_t)((uint64_t)seed >> 32);           \
        for (int i = 0; i < count; i++) {                                                  \
            words[i][0] = counter[i] & FLAMEC_LOW_WORD, words[i][1] = counter[i] >> 32;    \
            words[i][2] = words[i][3] = counter[i] ^ counter[i];                           \
        }                                                                                  \
        for (int round = 0; round < 10; round++) {                                         \
            _Pragma("GCC unroll 8") for (int i = 0; i < count; i++) {                      \
                vector *w = words[i];                                                      \
                const vector product0 = multiply(w[0], FLAMEC_MULTIPLIER_0);               \
                const vector product1 = multiply(w[2], FLAMEC_MULTIPLIER_1);               \
                w[0] = (product1 >> 32) ^ w[1] ^ (uint64_t)key0;                           \
                w[1] = product1 & FLAMEC_LOW_WORD;                                         \
                w[2] = (product0 >> 32) ^ w[3] ^ (uint64_t)key1;                           \
                w[3] = product0 & FLAMEC_LOW_WORD;                                         \
            }                                                                              \
            key0 += FLAMEC_WEYL_0;                                                         \
            key1 += FLAMEC_WEYL_1;                                                         \
        }                                                                                  \
    }
#define FLAMEC_MULTIPLY(x, y) ((x) * (uint64_t)(y))

/* Blocks that fill a register. */
typedef uint64_t flamec_blocks __attribute__((vector_size(FLAMEC_REGISTER)));
#define FLAMEC_BLOCKS (FLAMEC_REGISTER / 8)

/* 32 by 32 bits; compilers do not see that the upper halves are zero and multiply those too. */
FLAMEC_INLINE flamec_blocks flamec_multiply_words(flamec_blocks x, uint32_t y) {
    typedef int words __attribute__((vector_size(FLAMEC_REGISTER)));
    const words left = (words)x, right = (words)((flamec_blocks){0} + y);
#if FLAMEC_REGISTER == 64 && defined(__clang__)
    return (flamec_blocks)__builtin_ia32_pmuludq512(left, right);
#elif FLAMEC_REGISTER == 64
    typedef long long products __attribute__((vector_size(FLAMEC_REGISTER)));
    return (flamec_blocks)__builtin_ia32_pmuludq512_mask(left, right, (products){0}, 0xff);
#elif FLAMEC_REGISTER == 32 && defined(__AVX2__)
    return (flamec_blocks)__builtin_ia32_pmuludq256(left, right);
#elif FLAMEC_REGISTER == 16 && defined(__SSE2__)
    return (flamec_blocks)__builtin_ia32_pmuludq128(left, right);
#else
    (void)left, (void)right;
    return x * (uint64_t)y;
#endif
}

/* As many as registers hold (16 of AVX2, 32 of AVX-512 and NEON), and as make a vector of words from
 * any element on. */
#define FLAMEC_AT_ONCE (FLAMEC_REGISTER == 32 ? 2 : 4)
FLAMEC_PHILOX(flamec_philox_lanes, v_u64, 1, FLAMEC_MULTIPLY)
FLAMEC_PHILOX(flamec_philox_blocks, flamec_blocks, FLAMEC_AT_ONCE, flamec_multiply_words)

/* The words of the elements from `start` on: more than a vector, so that the next ones are there. */
#define FLAMEC_WORDS (4 * FLAMEC_BLOCKS * FLAMEC_AT_ONCE)
typedef struct FlamecWords {
    int64_t start;
    int32_t word[FLAMEC_WORDS];
} FlamecWords;
#define FLAMEC_NO_WORDS (int64_t)((uint64_t)1 << 63)

FLAMEC_OUTLINE void flamec_words_from(FlamecWords *known, int64_t element, int64_t seed, int64_t offset) {
    flamec_blocks counter[FLAMEC_AT_ONCE], words[FLAMEC_AT_ONCE][4];
    const int64_t block = element >> 2;
    for (int i = 0; i < FLAMEC_AT_ONCE; i++)
        for (int k = 0; k < FLAMEC_BLOCKS; k++)
            counter[i][k] = (uint64_t)(offset + block + i * FLAMEC_BLOCKS + k);
    flamec_philox_blocks(counter, seed, words);
    known->start = 4 * block;
    for (int i = 0; i < FLAMEC_AT_ONCE; i++) {
        const flamec_blocks low = words[i][0] | words[i][1] << 32;
        const flamec_blocks high = words[i][2] | words[i][3] << 32;
        flamec_blocks pair[2]; /* of words, the lower first in memory */
#ifdef FLAMEC_SHUFFLES
#if FLAMEC_BLOCKS == 8
        pair[0] = __builtin_shufflevector(low, high, 0, 8, 1, 9, 2, 10, 3, 11);
        pair[1] = __builtin_shufflevector(low, high, 4, 12, 5, 13, 6, 14, 7, 15);
#elif FLAMEC_BLOCKS == 4
        pair[0] = __builtin_shufflevector(low, high, 0, 4, 1, 5);
        pair[1] = __builtin_shufflevector(low, high, 2, 6, 3, 7);
#else
        pair[0] = __builtin_shufflevector(low, high, 0, 2);
        pair[1] = __builtin_shufflevector(low, high, 1, 3);
#endif
#else
        for (int k = 0; k < 2 * FLAMEC_BLOCKS; k++)
            pair[k / FLAMEC_BLOCKS][k % FLAMEC_BLOCKS] = k % 2 ? high[k / 2] : low[k / 2];
#endif
        __builtin_memcpy(known->word + 4 * FLAMEC_BLOCKS * i, pair, sizeof(pair));
    }
}

/* Words of neighbours, the first of which is `element`. */
FLAMEC_INLINE v_i32 vphilox_run_i32(FlamecWords *known, int64_t element, int64_t seed, int64_t offset) {
    uint64_t at = (uint64_t)element - (uint64_t)known->start;
    if (at > FLAMEC_WORDS - FLAMEC_LANES) {
        flamec_words_from(known, element, seed, offset);
        at = element & 3;
    }
    return *(const u_i32 *)(known->word + at);
}

FLAMEC_OUTLINE v_i32 vphilox_i32(v_i64 element, int64_t seed, int64_t offset) {
    const v_u64 counter = (v_u64)(offset + (element >> 2)), word = (v_u64)element & 3u;
    v_u64 words[1][4];
    flamec_philox_lanes(&counter, seed, words);
    v_i64 first = weq_i64((v_i64)word, vsplat_i64(0)), second = weq_i64((v_i64)word, vsplat_i64(1));
    v_i64 third = weq_i64((v_i64)word, vsplat_i64(2));
    v_i64 chosen = ((v_i64)words[0][0] & first) | ((v_i64)words[0][1] & second) |
                   ((v_i64)words[0][2] & third) | ((v_i64)words[0][3] & ~(first | second | third));
    return FLAMEC_CONVERT(chosen, i32);
}

#endif
