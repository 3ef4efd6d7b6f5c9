/* sha256_x86.c: four rounds at a time with SHA-NI. Intel, "Intel SHA Extensions" (2013).
 *
 * sha256rnds2 wants the state as (A B E F) and (C D G H); it does two rounds with the two lowest
 * words of (w + k). The schedule keeps the last 16 words in four registers. */
#if defined(__x86_64__)

#include "sha256.h"

#include <immintrin.h>

#include "../dse_internal.h"

__attribute__((target("sha,sse4.1,ssse3"))) static void sha256_blocks_ni(uint32_t state[8],
                                                                         const uint8_t *data,
                                                                         size_t blocks) {
  const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
  __m128i dcba = _mm_loadu_si128((const __m128i *)state);
  __m128i hgfe = _mm_loadu_si128((const __m128i *)(state + 4));
  __m128i abef = _mm_unpacklo_epi64(_mm_shuffle_epi32(hgfe, 0xb1), _mm_shuffle_epi32(dcba, 0xb1));
  __m128i cdgh = _mm_unpackhi_epi64(_mm_shuffle_epi32(hgfe, 0xb1), _mm_shuffle_epi32(dcba, 0xb1));
  for (; blocks; blocks--, data += 64) {
    __m128i w[4], before_abef = abef, before_cdgh = cdgh;
    for (int i = 0; i < 4; i++)
      w[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(data + 16 * i)), swap);
#pragma GCC unroll 16
    for (int t = 0; t < 16; t++) {
      __m128i constants = _mm_loadu_si128((const __m128i *)(sha256_constants + 4 * t));
      __m128i sum = _mm_add_epi32(w[t % 4], constants);
      cdgh = _mm_sha256rnds2_epu32(cdgh, abef, sum);
      abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(sum, 0x0e));
      if (t >= 12) continue;
      __m128i *oldest = &w[t % 4], newest = w[(t + 3) % 4];
      __m128i middle = _mm_alignr_epi8(newest, w[(t + 2) % 4], 4); /* w[t - 7] */
      *oldest = _mm_add_epi32(_mm_sha256msg1_epu32(*oldest, w[(t + 1) % 4]), middle);
      *oldest = _mm_sha256msg2_epu32(*oldest, newest);
    }
    abef = _mm_add_epi32(abef, before_abef);
    cdgh = _mm_add_epi32(cdgh, before_cdgh);
  }
  __m128i feba = _mm_shuffle_epi32(abef, 0x1b), dchg = _mm_shuffle_epi32(cdgh, 0xb1);
  _mm_storeu_si128((__m128i *)state, _mm_blend_epi16(feba, dchg, 0xf0));
  _mm_storeu_si128((__m128i *)(state + 4), _mm_alignr_epi8(dchg, feba, 8));
}

sha256_blocks *sha256_best(void) {
  int has = dse_cpu_has("sha", 3) == 1 && dse_cpu_has("sse4.1", 6) == 1;
  return has ? sha256_blocks_ni : sha256_blocks_c;
}

#endif
