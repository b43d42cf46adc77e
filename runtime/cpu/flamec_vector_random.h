/* Counter-based random bits: Philox4x32-10.
 *
 * In: element indices, seed, offset. Out: for element i, word i mod 4 of the block whose 64-bit
 * counter is offset + i div 4 (counter words 2 and 3 are 0); the seed is the key. Source:
 * Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011, section 3.3. */
#ifndef FLAMEC_VECTOR_RANDOM_H
#define FLAMEC_VECTOR_RANDOM_H

#define FLAMEC_LOW_WORD 0xffffffffu

/* Ten rounds over blocks side by side; each word lies in the low half of a 64-bit lane. */
#define FLAMEC_PHILOX(name, vector, multiply)                                              \
    FLAMEC_INLINE void name(vector counter, int64_t seed, vector *words) {                 \
        vector w0 = counter & FLAMEC_LOW_WORD, w1 = counter >> 32, w2 = w0 ^ w0, w3 = w2;  \
        uint32_t key0 = (uint32_t)seed, key1 = (uint32_t)((uint64_t)seed >> 32);           \
        for (int round = 0; round < 10; round++) {                                         \
            vector product0 = multiply(w0, 0xD2511F53u);                                   \
            vector product1 = multiply(w2, 0xCD9E8D57u);                                   \
            w0 = (product1 >> 32) ^ w1 ^ (uint64_t)key0;                                   \
            w1 = product1 & FLAMEC_LOW_WORD;                                               \
            w2 = (product0 >> 32) ^ w3 ^ (uint64_t)key1;                                   \
            w3 = product0 & FLAMEC_LOW_WORD;                                               \
            key0 += 0x9E3779B9u;                                                           \
            key1 += 0xBB67AE85u;                                                           \
        }                                                                                  \
        words[0] = w0;                                                                     \
        words[1] = w1;                                                                     \
        words[2] = w2;                                                                     \
        words[3] = w3;                                                                     \
    }
#define FLAMEC_MULTIPLY(x, y) ((x) * (uint64_t)(y))

/* The blocks that one vector of consecutive words comes from. */
typedef uint64_t flamec_blocks __attribute__((vector_size(FLAMEC_LANES / 4 * sizeof(uint64_t))));

/* 32 by 32 bits; compilers do not see that the upper halves are zero and multiply those too. */
FLAMEC_INLINE flamec_blocks flamec_multiply_words(flamec_blocks x, uint32_t y) {
#if FLAMEC_LANES == 16 && defined(__AVX2__)
    typedef int words __attribute__((vector_size(32)));
    return (flamec_blocks)__builtin_ia32_pmuludq256((words)x, (words)((flamec_blocks){0} + y));
#elif FLAMEC_LANES == 8 && defined(__SSE2__)
    typedef int words __attribute__((vector_size(16)));
    return (flamec_blocks)__builtin_ia32_pmuludq128((words)x, (words)((flamec_blocks){0} + y));
#else
    return x * (uint64_t)y;
#endif
}

FLAMEC_PHILOX(flamec_philox_lanes, v_u64, FLAMEC_MULTIPLY)
FLAMEC_PHILOX(flamec_philox_blocks, flamec_blocks, flamec_multiply_words)

/* Consecutive elements from a whole block on need a quarter of the work. */
FLAMEC_OUTLINE v_i32 vphilox_i32(v_i64 element, int64_t seed, int64_t offset) {
    int64_t start = element[0];
    if (!(start & 3) && vhmin_b(veq_i64(element, viota_i64(start)))) {
        flamec_blocks counter = {0}, words[4];
        for (int i = 0; i < FLAMEC_LANES / 4; i++) counter[i] = (uint64_t)(offset + start / 4 + i);
        flamec_philox_blocks(counter, seed, words);
        flamec_blocks first = words[0] | words[1] << 32, second = words[2] | words[3] << 32;
        union {
            uint64_t pair[FLAMEC_LANES / 2]; /* two words, the lower first in memory */
            v_i32 whole;
        } result;
        for (int i = 0; i < FLAMEC_LANES / 4; i++) {
            result.pair[2 * i] = first[i];
            result.pair[2 * i + 1] = second[i];
        }
        return result.whole;
    }
    v_u64 words[4], word = (v_u64)element & 3u;
    flamec_philox_lanes((v_u64)(offset + (element >> 2)), seed, words);
    v_i64 first = weq_i64((v_i64)word, vsplat_i64(0)), second = weq_i64((v_i64)word, vsplat_i64(1));
    v_i64 third = weq_i64((v_i64)word, vsplat_i64(2));
    v_i64 chosen = ((v_i64)words[0] & first) | ((v_i64)words[1] & second) |
                   ((v_i64)words[2] & third) | ((v_i64)words[3] & ~(first | second | third));
    return FLAMEC_CONVERT(chosen, i32);
}

#endif
