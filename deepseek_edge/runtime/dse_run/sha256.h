/* sha256.h: SHA-256 (FIPS 180-4), with the CPU's instructions for it where it has them. */
#ifndef DSE_RUN_SHA256_H
#define DSE_RUN_SHA256_H

#include <stddef.h>
#include <stdint.h>

typedef void sha256_blocks(uint32_t state[8], const uint8_t *data, size_t blocks);

typedef struct {
  uint32_t state[8];
  uint64_t bytes;
  uint8_t pending[64];
  sha256_blocks *blocks;
} sha256;

void sha256_start(sha256 *hash);
void sha256_add(sha256 *hash, const void *data, size_t bytes);
void sha256_end(sha256 *hash, uint8_t digest[32]);

extern const uint32_t sha256_constants[64];
sha256_blocks sha256_blocks_c;

/* The fastest way on this CPU: sha256_x86.c or sha256_arm64.c. */
sha256_blocks *sha256_best(void);

#endif
