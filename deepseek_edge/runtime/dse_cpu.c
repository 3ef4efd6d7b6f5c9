/* dse_cpu.c: may this process run the kernels, and on how many CPUs? */
#include "dse_internal.h"

dse_status dse_check_features(const char *features, char *error) {
  while (*features) {
    while (*features == ' ') features++;
    size_t length = 0;
    while (features[length] && features[length] != ' ') length++;
    if (length == 0) break;
    int found = dse_cpu_has(features, length);
    if (found != 1) {
      char name[32];
      size_t kept = length < sizeof name ? length : sizeof name - 1;
      memcpy(name, features, kept);
      name[kept] = 0;
      /* A feature that can't be checked is refused: the alternative is an illegal instruction. */
      if (found == 0) dse_format(error, "this CPU lacks the feature '%s'", name);
      else dse_format(error, "the runtime can't check the CPU feature '%s'", name);
      return DSE_ERROR_FEATURE;
    }
    features += length;
  }
  return DSE_OK;
}

int32_t dse_usable_cpus(void) {
  unsigned long mask[1024 / sizeof(long)];
  long bytes = syscall(SYS_sched_getaffinity, 0, sizeof mask, mask);
  int32_t cpus = 0;
  for (long word = 0; word < bytes / (long)sizeof(long); word++)
    cpus += __builtin_popcountl(mask[word]);
  if (cpus < 1) cpus = 1;
  return cpus < DSE_MAX_THREADS ? cpus : DSE_MAX_THREADS;
}
