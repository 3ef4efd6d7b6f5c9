/* drive.c THREADS SPIN_US RUNS: uses every function of deepseek_edge.h, well and badly, and
 * exits with 0 if all was as documented. Built with sanitizers, and run under count_malloc.c. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "deepseek_edge.h"

#define CHECK(what)                                                      \
  do {                                                                   \
    if (!(what)) {                                                       \
      fprintf(stderr, "drive.c:%d: %s is false\n", __LINE__, #what);     \
      exit(1);                                                           \
    }                                                                    \
  } while (0)

static dse_options options = {.struct_size = sizeof(dse_options)};

static void check_bad_options(void) {
  dse_model *model = (dse_model *)&options;
  CHECK(dse_open(&options, NULL) == DSE_ERROR_ARGUMENT);
  dse_options bad = {.struct_size = 4};
  CHECK(dse_open(&bad, &model) == DSE_ERROR_ARGUMENT && model == NULL);
  bad = (dse_options){.struct_size = sizeof bad, .threads = -1};
  CHECK(dse_open(&bad, &model) == DSE_ERROR_ARGUMENT);
  bad.threads = 257;
  CHECK(dse_open(&bad, &model) == DSE_ERROR_ARGUMENT);
  int32_t cpus[2] = {0, 8191};
  bad = (dse_options){.struct_size = sizeof bad, .threads = 3, .affinity = cpus};
  bad.affinity_count = 2;
  CHECK(dse_open(&bad, &model) == DSE_ERROR_ARGUMENT);
  bad.threads = 2;
  CHECK(dse_open(&bad, &model) == DSE_ERROR_ARGUMENT);
  CHECK(strcmp(dse_last_error(NULL), "can't run a thread on CPU 8191") == 0);
  cpus[1] = 8192;
  CHECK(dse_open(&bad, &model) == DSE_ERROR_ARGUMENT);
  dse_close(NULL);
}

static void check_bad_arguments(dse_model *model) {
  dse_entry_info entry;
  dse_tensor_info tensor;
  dse_step_info step;
  uint64_t ns[3];
  CHECK(dse_run(NULL, 0) == DSE_ERROR_ARGUMENT && dse_entries(NULL) == 0);
  CHECK(dse_run(model, -1) == DSE_ERROR_ARGUMENT && dse_run(model, 3) == DSE_ERROR_ARGUMENT);
  CHECK(strcmp(dse_last_error(model), "entry 3: the program has 3") == 0);
  CHECK(dse_entry(model, 9, &entry) == DSE_ERROR_ARGUMENT);
  CHECK(dse_entry(model, 0, NULL) == DSE_ERROR_ARGUMENT);
  CHECK(dse_tensor(model, 0, DSE_INPUT, 1, &tensor) == DSE_ERROR_ARGUMENT);
  CHECK(dse_tensor(model, 0, DSE_OUTPUT, -1, &tensor) == DSE_ERROR_ARGUMENT);
  CHECK(dse_tensor(model, 0, (dse_direction)7, 0, &tensor) == DSE_ERROR_ARGUMENT);
  CHECK(dse_tensor(model, 0, DSE_INPUT, 0, NULL) == DSE_ERROR_ARGUMENT);
  CHECK(dse_step(model, 0, 3, &step) == DSE_ERROR_ARGUMENT);
  CHECK(dse_run_timed(model, 0, NULL, 3) == DSE_ERROR_ARGUMENT);
  CHECK(dse_run_timed(model, 0, ns, 2) == DSE_ERROR_ARGUMENT);
  CHECK(dse_run_timed(model, 0, ns, 3) == DSE_OK);
}

static void check_description(const dse_model *model) {
  dse_entry_info entry;
  dse_tensor_info tensor;
  dse_step_info step;
  CHECK(dse_abi_version() == DSE_ABI_VERSION && dse_entries(model) == 3);
  CHECK(dse_entry(model, 1, &entry) == DSE_OK && strcmp(entry.name, "batch4") == 0);
  CHECK(entry.inputs == 1 && entry.outputs == 1 && entry.steps == 2);
  CHECK(dse_tensor(model, 1, DSE_OUTPUT, 0, &tensor) == DSE_OK && tensor.rank == 2);
  CHECK(tensor.shape[0] == 4 && tensor.shape[1] == 512 && tensor.size_bytes == 8192);
  CHECK(strcmp(tensor.name, "y") == 0 && tensor.dtype == DSE_FLOAT32);
  CHECK((uintptr_t)tensor.data % 64 == 0);
  CHECK(dse_step(model, 0, 2, &step) == DSE_OK && strcmp(step.op, "Sum") == 0);
}

/* The workers run where they were told to, and the caller where it did. */
static void check_affinity(void) {
  cpu_set_t before, after;
  dse_model *model;
  int32_t cpus[2] = {sched_getcpu(), sched_getcpu()};
  dse_options pinned = {.struct_size = sizeof pinned, .threads = 2, .affinity = cpus};
  pinned.affinity_count = 2;
  CHECK(sched_getaffinity(0, sizeof before, &before) == 0);
  CHECK(dse_open(&pinned, &model) == DSE_OK && dse_run(model, 1) == DSE_OK);
  CHECK(sched_getaffinity(0, sizeof after, &after) == 0 && CPU_EQUAL(&before, &after));
  DIR *tasks = opendir("/proc/self/task");
  int one_cpu = 0;
  for (struct dirent *task; (task = readdir(tasks));) {
    CHECK(sched_getaffinity(atoi(task->d_name), sizeof after, &after) == 0);
    one_cpu += task->d_name[0] != '.' && CPU_COUNT(&after) == 1 && CPU_ISSET(cpus[1], &after);
  }
  closedir(tasks);
  CHECK(one_cpu >= 1);
  dse_close(model);
}

/* Inputs and weights are small integers, so repeated runs must agree to the last bit. */
static void check_runs(dse_model *model, int runs) {
  dse_tensor_info x, y, counts;
  static __thread float first[4 * 512];
  CHECK(dse_tensor(model, 1, DSE_INPUT, 0, &x) == DSE_OK);
  CHECK(dse_tensor(model, 1, DSE_OUTPUT, 0, &y) == DSE_OK);
  for (int i = 0; i < 4 * 256; i++) ((float *)x.data)[i] = (float)(i % 17 - 8);
  for (int run = 0; run < runs; run++) {
    CHECK(dse_run(model, 1) == DSE_OK);
    if (run == 0) memcpy(first, y.data, sizeof first);
    CHECK(memcmp(first, y.data, sizeof first) == 0);
  }
  CHECK(first[0] + first[1] + first[2] + first[3] != 0);
  CHECK(dse_tensor(model, 2, DSE_OUTPUT, 0, &counts) == DSE_OK);
  int32_t before = *(int32_t *)counts.data;
  for (int run = 0; run < runs; run++) CHECK(dse_run(model, 2) == DSE_OK);
  for (int i = 0; i < 1000; i++) CHECK(((int32_t *)counts.data)[i] == before + runs);
}

static void *run_another(void *runs) {
  dse_model *model;
  CHECK(dse_open(&options, &model) == DSE_OK);
  check_runs(model, *(int *)runs);
  dse_close(model);
  return NULL;
}

static void check_fork(dse_model *model) {
  pid_t child = fork();
  int status = -1;
  if (child == 0) {
    int refused = dse_run(model, 0) == DSE_ERROR_THREADS;
    dse_close(model);
    _exit(refused ? 0 : 1);
  }
  CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

int main(int argc, char **argv) {
  if (argc != 4) return 2;
  options.threads = atoi(argv[1]);
  options.spin_us = atoi(argv[2]);
  int runs = atoi(argv[3]);
  volatile long *allocations = dlsym(RTLD_DEFAULT, "allocations");
  dse_model *model;
  check_bad_options();
  CHECK(dse_open(&options, &model) == DSE_OK);

  long opened = allocations ? *allocations : 0;
  check_description(model);
  check_bad_arguments(model);
  check_runs(model, runs);
  CHECK(!allocations || *allocations == opened);
  if (allocations) {
    void *volatile block = malloc(1);
    CHECK(*allocations == opened + 1);
    free(block);
    printf("counted\n");
  }

  pthread_t another;
  CHECK(pthread_create(&another, NULL, run_another, &runs) == 0);
  check_runs(model, runs);
  CHECK(pthread_join(another, NULL) == 0);
  check_fork(model);
  dse_close(model);
  check_affinity();
  return 0;
}
