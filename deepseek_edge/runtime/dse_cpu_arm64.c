/* dse_cpu_arm64.c: features as the kernel reports them in the auxiliary vector.
 *
 * Bits: Linux, Documentation/arch/arm64/elf_hwcaps.rst. Names are LLVM's.
 */
#if defined(__aarch64__)

#include "dse_internal.h"

#define HWCAP 16
#define HWCAP2 26

static const struct {
  char name[12];
  uint8_t vector;
  uint64_t bits; /* all of them */
} known[] = {
    {"fp-armv8", HWCAP, 1u << 0},
    {"neon", HWCAP, 1u << 1},
    {"asimd", HWCAP, 1u << 1},
    {"aes", HWCAP, 1u << 3 | 1u << 4},
    {"sha2", HWCAP, 1u << 5 | 1u << 6},
    {"crc", HWCAP, 1u << 7},
    {"lse", HWCAP, 1u << 8},
    {"fullfp16", HWCAP, 1u << 9 | 1u << 10},
    {"rdm", HWCAP, 1u << 12},
    {"jsconv", HWCAP, 1u << 13},
    {"complxnum", HWCAP, 1u << 14},
    {"rcpc", HWCAP, 1u << 15},
    {"ccpp", HWCAP, 1u << 16},
    {"sha3", HWCAP, 1u << 17 | 1u << 21},
    {"dotprod", HWCAP, 1u << 20},
    {"sve", HWCAP, 1u << 22},
    {"fp16fml", HWCAP, 1u << 23},
    {"sve2", HWCAP2, 1u << 1},
    {"i8mm", HWCAP2, 1u << 13},
    {"bf16", HWCAP2, 1u << 14},
};

int dse_cpu_has(const char *feature, size_t length) {
  for (size_t row = 0; row < sizeof known / sizeof known[0]; row++) {
    if (strlen(known[row].name) != length || memcmp(known[row].name, feature, length)) continue;
    return (getauxval(known[row].vector) & known[row].bits) == known[row].bits;
  }
  return -1;
}

#endif
