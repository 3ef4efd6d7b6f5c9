/* bench.h: latency of a program's first entry. */
#ifndef DSE_RUN_BENCH_H
#define DSE_RUN_BENCH_H

#include "library.h"

enum { MAX_RUNS = 100000 };

/* Runs on zeros, once and then `runs` times; prints one JSON object. `open_ns` is how long it
 * took to verify, load and open. */
void run_bench(const char *program, const library *loaded, dse_model *model, int threads, int runs,
               uint64_t open_ns, int is_cached);

#endif
