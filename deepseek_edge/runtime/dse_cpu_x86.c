/* dse_cpu_x86.c: features by cpuid, and whether the kernel saves the registers they use.
 *
 * Leaves and bits: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2A,
 * CPUID, and volume 1, 13.3 (XCR0). Names are LLVM's.
 */
#if defined(__x86_64__)

#include <cpuid.h>

#include "dse_internal.h"

enum { L1C, L1D, L7B, L7C, L7D, L71A, L71D, X1C, LD1A, LEAVES };
enum { ANY, YMM, ZMM }; /* register state that the kernel must save */

static const struct {
  char name[18];
  uint8_t leaf, bit, state;
} known[] = {
    {"cx8", L1D, 8, ANY},           {"cmov", L1D, 15, ANY},        {"mmx", L1D, 23, ANY},
    {"fxsr", L1D, 24, ANY},         {"sse", L1D, 25, ANY},         {"sse2", L1D, 26, ANY},
    {"sse3", L1C, 0, ANY},          {"pclmul", L1C, 1, ANY},       {"ssse3", L1C, 9, ANY},
    {"fma", L1C, 12, YMM},          {"cx16", L1C, 13, ANY},        {"sse4.1", L1C, 19, ANY},
    {"sse4.2", L1C, 20, ANY},       {"crc32", L1C, 20, ANY},       {"movbe", L1C, 22, ANY},
    {"popcnt", L1C, 23, ANY},       {"aes", L1C, 25, ANY},         {"xsave", L1C, 27, ANY},
    {"avx", L1C, 28, YMM},          {"f16c", L1C, 29, YMM},        {"rdrnd", L1C, 30, ANY},
    {"fsgsbase", L7B, 0, ANY},      {"bmi", L7B, 3, ANY},          {"avx2", L7B, 5, YMM},
    {"bmi2", L7B, 8, ANY},          {"avx512f", L7B, 16, ZMM},     {"avx512dq", L7B, 17, ZMM},
    {"rdseed", L7B, 18, ANY},       {"adx", L7B, 19, ANY},         {"avx512ifma", L7B, 21, ZMM},
    {"clflushopt", L7B, 23, ANY},   {"clwb", L7B, 24, ANY},        {"avx512cd", L7B, 28, ZMM},
    {"sha", L7B, 29, ANY},          {"avx512bw", L7B, 30, ZMM},    {"avx512vl", L7B, 31, ZMM},
    {"avx512vbmi", L7C, 1, ZMM},    {"avx512vbmi2", L7C, 6, ZMM},  {"gfni", L7C, 8, ANY},
    {"vaes", L7C, 9, YMM},          {"vpclmulqdq", L7C, 10, YMM},  {"avx512vnni", L7C, 11, ZMM},
    {"avx512bitalg", L7C, 12, ZMM}, {"avx512vpopcntdq", L7C, 14, ZMM},
    {"avx512fp16", L7D, 23, ZMM},   {"avxvnni", L71A, 4, YMM},     {"avx512bf16", L71A, 5, ZMM},
    {"avxifma", L71A, 23, YMM},     {"avxvnniint8", L71D, 4, YMM}, {"avxneconvert", L71D, 5, YMM},
    {"avxvnniint16", L71D, 10, YMM}, {"sahf", X1C, 0, ANY},        {"lzcnt", X1C, 5, ANY},
    {"prfchw", X1C, 8, ANY},        {"xsaveopt", LD1A, 0, ANY},    {"xsavec", LD1A, 1, ANY},
};

static void read_leaves(uint32_t leaves[LEAVES]) {
  uint32_t a, b, c, d, most = __get_cpuid_max(0, 0);
  memset(leaves, 0, LEAVES * sizeof leaves[0]);
  __cpuid(1, a, b, leaves[L1C], leaves[L1D]);
  if (most >= 7) {
    __cpuid_count(7, 0, a, leaves[L7B], leaves[L7C], leaves[L7D]);
    if (a >= 1) __cpuid_count(7, 1, leaves[L71A], b, c, leaves[L71D]);
  }
  if (most >= 13) __cpuid_count(13, 1, leaves[LD1A], b, c, d);
  if (__get_cpuid_max(0x80000000u, 0) >= 0x80000001u) __cpuid(0x80000001u, a, b, leaves[X1C], d);
}

static int saved_state(const uint32_t leaves[LEAVES]) {
  if (!(leaves[L1C] >> 27 & 1)) return ANY; /* no OSXSAVE: xgetbv would fault */
  uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  if ((low & 0xe6) == 0xe6) return ZMM;
  return (low & 0x6) == 0x6 ? YMM : ANY;
}

int dse_cpu_has(const char *feature, size_t length) {
  uint32_t leaves[LEAVES];
  for (size_t row = 0; row < sizeof known / sizeof known[0]; row++) {
    if (strlen(known[row].name) != length || memcmp(known[row].name, feature, length)) continue;
    read_leaves(leaves);
    int present = leaves[known[row].leaf] >> known[row].bit & 1;
    return present && known[row].state <= saved_state(leaves);
  }
  return -1;
}

#endif
