/* dse_internal.h: what the runtime's files share. Nothing here leaves model.so. */
#ifndef DSE_INTERNAL_H
#define DSE_INTERNAL_H

#include <stdatomic.h>

#include "dse_libc.h"
#include "dse_program.h"

#define DSE_MAX_THREADS 256
#define DSE_MAX_CPUS 8192
#define DSE_ERROR_BYTES 192
#define DSE_DEFAULT_SPIN_US 200

/* One step, ready to be called. */
typedef struct {
  dse_kernel kernel;
  int32_t n_tensors;
  int32_t scratch; /* which of the tensors is the thread's own memory, or -1 */
  void *tensors[DSE_MAX_KERNEL_TENSORS];
} dse_call;

/* As the kernel takes it: CPU number n is bit n. */
typedef struct {
  unsigned long words[DSE_MAX_CPUS / 8 / sizeof(long)];
} dse_cpu_set;

typedef struct dse_pool dse_pool;

typedef struct {
  _Alignas(64) _Atomic uint64_t ticket; /* of this thread's share */
  dse_pool *pool;
  pthread_t thread;
  int32_t cpu; /* -1: any */
} dse_worker;

/* Threads that share the tasks of one step at a time.
 *
 * Each thread has a contiguous share of a step's tasks, the same part in every step; a thread
 * that has finished its own takes over from others. So equal cores keep their data, and faster or
 * less busy ones do more.
 *
 * A share's `ticket` is (generation << 32 | tasks not yet claimed). A claim is one compare-and-swap
 * that succeeds only while its generation has unclaimed tasks, and the caller of dse_pool_run
 * doesn't touch `call`, `tasks`, `grain` or `shares` before every claimed task is completed. So a
 * thread that comes late claims nothing of an old step, and nobody waits for a thread that the
 * kernel hasn't scheduled. */
struct dse_pool {
  _Alignas(64) _Atomic int32_t completed; /* by the workers; futex: the caller sleeps on it */
  _Atomic int32_t caller_sleeps;
  _Alignas(64) _Atomic int32_t generation; /* futex: idle workers sleep on it */
  _Atomic int32_t sleepers;
  _Atomic int32_t stop;
  _Atomic int32_t started;    /* futex: workers that have pinned themselves, or failed to */
  _Atomic int32_t failed_cpu; /* a CPU number that the kernel refused, or -1 */
  _Alignas(64) _Atomic int32_t tasks;
  _Atomic int32_t grain;
  _Atomic int32_t shares;
  dse_call call;
  unsigned char *scratch; /* of all threads, one after the other */
  int32_t threads; /* the caller included */
  int32_t prefers;  /* do workers without a CPU of their own run on `cpus` only? */
  dse_cpu_set cpus;
  uint64_t spin_ns;
  dse_worker workers[DSE_MAX_THREADS];
};

/* What every executor's model begins with. */
struct dse_model {
  int32_t process; /* its threads, or its GPU, belong to that: a forked child must not run it */
  char error[DSE_ERROR_BYTES];
};

/* How the steps of a program are carried out. */
struct dse_executor {
  /* Makes *model; on failure everything is given back, and `error` says why. */
  dse_status (*open)(const dse_options *options, dse_model **model, char *error);
  /* Where this process reads or writes one of the table's inputs and outputs. */
  void *(*tensor)(const dse_model *model, const dse_tensor_row *row);
  /* step_ns: NULL, or a place for each step's duration. */
  dse_status (*run)(dse_model *model, const dse_entry_table *entry, uint64_t *step_ns);
  void (*close)(dse_model *model); /* in a forked child too, where only memory is given back */
};


/* dse_error.c: %s and %d only, cut at DSE_ERROR_BYTES. */
void dse_format(char *message, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* dse_cpu_*.c: 1 present, 0 absent, -1 not a name this runtime can check. */
int dse_cpu_has(const char *feature, size_t length);

/* dse_cpu.c */
dse_status dse_check_features(const char *features, char *error);
void dse_usable_cpus(dse_cpu_set *cpus); /* of this process; one if it can't be told */
int32_t dse_count_cpus(const dse_cpu_set *cpus);
/* Takes the slowest kinds of cores away while `wanted` are left, and says whether it did. `sysfs`
 * is /sys/devices/system/cpu; where that doesn't tell the capacity of each CPU, all stay. */
int dse_keep_fastest(const char *sysfs, int32_t wanted, dse_cpu_set *cpus);

/* dse_check.c */
dse_status dse_check_program(const dse_program_table *program, char *error);

/* dse_pool.c. pool->threads, scratch, spin_ns, prefers, cpus and each worker's cpu are set, the
 * rest 0. */
dse_status dse_pool_start(dse_pool *pool, char *error);
void dse_pool_run(dse_pool *pool, int32_t tasks, int32_t grain);
void dse_pool_stop(dse_pool *pool);

/* dse_call.c */
void dse_call_kernel(const dse_call *call, int32_t begin, int32_t end);

#endif
