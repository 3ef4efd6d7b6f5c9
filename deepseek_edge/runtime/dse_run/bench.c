#include "bench.h"

#include "exits.h"
#include "platform.h"

static uint64_t durations[MAX_RUNS]; /* taken from the heap, the first runs would be slower */

/* Shell's sort with Ciura's gaps: qsort may allocate. */
static void sort(uint64_t *values, int count) {
  static const int gaps[] = {57, 23, 10, 4, 1};
  int first = count;
  for (int gap = first / 2; gap > 57; gap = gap * 4 / 9)
    for (int i = gap; i < count; i++) {
      uint64_t value = values[i];
      int j = i;
      for (; j >= gap && values[j - gap] > value; j -= gap) values[j] = values[j - gap];
      values[j] = value;
    }
  for (unsigned g = 0; g < sizeof gaps / sizeof gaps[0]; g++)
    for (int i = gaps[g]; i < count; i++) {
      uint64_t value = values[i];
      int j = i;
      for (; j >= gaps[g] && values[j - gaps[g]] > value; j -= gaps[g])
        values[j] = values[j - gaps[g]];
      values[j] = value;
    }
}

/* Nearest rank: the smallest value that `percent` of all don't exceed. */
static double percentile_ms(int runs, int percent) {
  int rank = (int)(((int64_t)runs * percent + 99) / 100);
  return (double)durations[rank - 1] * 1e-6;
}

static uint64_t time_run(const library *loaded, dse_model *model) {
  uint64_t start = dse_now_ns();
  if (loaded->run(model, 0) != DSE_OK) end(EXIT_FAILED, "%s", loaded->last_error(model));
  return dse_now_ns() - start;
}

void run_bench(const char *program, const library *loaded, dse_model *model, int threads, int runs,
               uint64_t open_ns, int is_cached) {
  dse_entry_info entry;
  uint64_t first_ns = time_run(loaded, model), sum_ns = 0;
  loaded->entry(model, 0, &entry);
  for (int i = 0; i < runs; i++) sum_ns += durations[i] = time_run(loaded, model);
  sort(durations, runs);
  print("{\"program\": \"%s\", \"entry\": \"%s\", \"threads\": %d, \"runs\": %d, \"cached\": %s, "
        "\"open_ms\": %.3f, \"first_ms\": %.3f, \"min_ms\": %.6f, \"mean_ms\": %.6f, "
        "\"p50_ms\": %.6f, \"p90_ms\": %.6f, \"p99_ms\": %.6f}\n",
        program, entry.name, threads, runs, is_cached ? "true" : "false", (double)open_ns * 1e-6,
        (double)first_ns * 1e-6, (double)durations[0] * 1e-6, (double)sum_ns * 1e-6 / runs,
        percentile_ms(runs, 50), percentile_ms(runs, 90), percentile_ms(runs, 99));
}
