/* fastest.c SYSFS WANTED CPU...: prints which of the CPUs dse_keep_fastest keeps. */
#include <stdio.h>
#include <stdlib.h>

#include "dse_internal.h"

int main(int argc, char **argv) {
  const int bits = 8 * sizeof(long);
  dse_cpu_set cpus = {{0}}, before;
  if (argc < 3) return 2;
  for (int i = 3; i < argc; i++) cpus.words[atoi(argv[i]) / bits] |= 1ul << atoi(argv[i]) % bits;
  before = cpus;
  int fewer = dse_keep_fastest(argv[1], atoi(argv[2]), &cpus);
  if (fewer != (memcmp(&before, &cpus, sizeof cpus) != 0)) return 1;
  for (int cpu = 0; cpu < DSE_MAX_CPUS; cpu++)
    if (cpus.words[cpu / bits] >> cpu % bits & 1) printf("%d ", cpu);
  return 0;
}
