/* sha256_arm64.c: four rounds at a time with the SHA2 instructions of ARMv8.0. */
#if defined(__aarch64__)

#include "sha256.h"

#include <arm_neon.h>

#include "../dse_internal.h"

#if defined(__clang__)
#define WITH_SHA2 __attribute__((target("sha2")))
#else
#define WITH_SHA2 __attribute__((target("+crypto")))
#endif

WITH_SHA2 static void sha256_blocks_armv8(uint32_t state[8], const uint8_t *data, size_t blocks) {
  uint32x4_t abcd = vld1q_u32(state), efgh = vld1q_u32(state + 4);
  for (; blocks; blocks--, data += 64) {
    uint32x4_t w[4], before_abcd = abcd, before_efgh = efgh;
    for (int i = 0; i < 4; i++)
      w[i] = vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(data + 16 * i)));
#pragma GCC unroll 16
    for (int t = 0; t < 16; t++) {
      uint32x4_t sum = vaddq_u32(w[t % 4], vld1q_u32(sha256_constants + 4 * t)), old = abcd;
      abcd = vsha256hq_u32(abcd, efgh, sum);
      efgh = vsha256h2q_u32(efgh, old, sum);
      if (t >= 12) continue;
      w[t % 4] = vsha256su1q_u32(vsha256su0q_u32(w[t % 4], w[(t + 1) % 4]), w[(t + 2) % 4],
                                 w[(t + 3) % 4]);
    }
    abcd = vaddq_u32(abcd, before_abcd);
    efgh = vaddq_u32(efgh, before_efgh);
  }
  vst1q_u32(state, abcd);
  vst1q_u32(state + 4, efgh);
}

sha256_blocks *sha256_best(void) {
  return dse_cpu_has("sha2", 4) == 1 ? sha256_blocks_armv8 : sha256_blocks_c;
}

#endif
