/* Counter-based random bits: Philox4x32-10.
 *
 * In: element indices, seed, offset. Out: for element i, word i mod 4 of the block whose 64-bit
 * counter is offset + i div 4 (counter words 2 and 3 are 0); the seed is the key. Source:
 * Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011, section 3.3. */
#ifndef FLAMEC_VECTOR_RANDOM_H
#define FLAMEC_VECTOR_RANDOM_H

FLAMEC_OUTLINE v_i32 vphilox_i32(v_i64 element, int64_t seed, int64_t offset) {
    const uint64_t low = 0xffffffffu;
    v_u64 counter = (v_u64)(offset + (element >> 2));
    v_u64 w0 = counter & low, w1 = counter >> 32, w2 = w0 & 0, w3 = w2;
    uint32_t key0 = (uint32_t)seed, key1 = (uint32_t)((uint64_t)seed >> 32);
    for (int round = 0; round < 10; round++) {
        v_u64 product0 = w0 * (uint64_t)0xD2511F53u, product1 = w2 * (uint64_t)0xCD9E8D57u;
        w0 = (product1 >> 32) ^ w1 ^ (uint64_t)key0;
        w1 = product1 & low;
        w2 = (product0 >> 32) ^ w3 ^ (uint64_t)key1;
        w3 = product0 & low;
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    v_u64 word = (v_u64)element & 3u;
    v_u64 low_pair = (w0 & (v_u64)(word == 0)) | (w1 & (v_u64)(word == 1));
    v_u64 high_pair = (w2 & (v_u64)(word == 2)) | (w3 & (v_u64)(word == 3));
    return FLAMEC_CONVERT((v_i64)(low_pair | high_pair), i32);
}

#endif
