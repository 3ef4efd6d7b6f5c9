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

#define LONG_BITS (8 * (int32_t)sizeof(long))
#define MOST_CAPACITY 1024

static int has(const dse_cpu_set *cpus, int32_t cpu) {
  return cpus->words[cpu / LONG_BITS] >> cpu % LONG_BITS & 1;
}

void dse_usable_cpus(dse_cpu_set *cpus) {
  memset(cpus, 0, sizeof *cpus);
  if (syscall(SYS_sched_getaffinity, 0, sizeof *cpus, cpus) <= 0) cpus->words[0] = 1;
}

int32_t dse_count_cpus(const dse_cpu_set *cpus) {
  int32_t count = 0;
  for (int32_t cpu = 0; cpu < DSE_MAX_CPUS; cpu++) count += has(cpus, cpu);
  return count;
}

/* What the kernel's scheduler says a CPU can do, 1 to MOST_CAPACITY; 0 if it doesn't. */
static int32_t read_capacity(const char *sysfs, int32_t cpu) {
  char path[DSE_ERROR_BYTES], digits[8];
  dse_format(path, "%s/cpu%d/cpu_capacity", sysfs, cpu);
  long file = syscall(SYS_openat, -100 /* AT_FDCWD */, path, 02000000 /* O_CLOEXEC */);
  if (file < 0) return 0;
  long length = syscall(SYS_read, file, digits, sizeof digits);
  syscall(SYS_close, file);
  int32_t capacity = 0;
  for (long i = 0; i < length && digits[i] >= '0' && digits[i] <= '9'; i++)
    capacity = 10 * capacity + digits[i] - '0';
  return capacity <= MOST_CAPACITY ? capacity : 0;
}

int dse_keep_fastest(const char *sysfs, int32_t wanted, dse_cpu_set *cpus) {
  int16_t with_capacity[MOST_CAPACITY + 1] = {0};
  int32_t count = dse_count_cpus(cpus), least = MOST_CAPACITY;
  if (wanted >= count) return 0;
  for (int32_t cpu = 0; cpu < DSE_MAX_CPUS; cpu++)
    if (has(cpus, cpu)) with_capacity[read_capacity(sysfs, cpu)]++;
  int32_t kept = with_capacity[least];
  while (kept < wanted && least > 1) kept += with_capacity[--least];
  if (with_capacity[0] || kept == count) return 0;
  for (int32_t cpu = 0; cpu < DSE_MAX_CPUS; cpu++)
    if (has(cpus, cpu) && read_capacity(sysfs, cpu) < least)
      cpus->words[cpu / LONG_BITS] &= ~(1ul << cpu % LONG_BITS);
  return 1;
}
