/* Opens, runs and closes a CUDA program under the driver of fake_libcuda.c, with every call of the
 * driver failing once in every way; prints a line a failure: "open|run|timed status message". */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "deepseek_edge.h"

static void *library;
static int number(const char *name) { return ((int (*)(void))dlsym(library, name))(); }
static void fail_at(int call, int code) {
  ((void (*)(int, int))dlsym(library, "fake_fail"))(call, code);
}
static void reset(int driver, int sm) {
  ((void (*)(int, int))dlsym(library, "fake_reset"))(driver, sm);
}

static void expect(int holds, const char *what) {
  if (holds) return;
  fprintf(stderr, "not so: %s\n", what);
  exit(1);
}
static void expect_nothing_left(void) {
  expect(number("fake_live") == 0, "nothing of the driver's is left");
  expect(number("fake_pushed") == 0, "no context is left current");
}

static void run_well(void) {
  dse_model *model;
  reset(12040, 87);
  expect(dse_open(NULL, &model) == DSE_OK, "it opens");
  dse_tensor_info in, out, other;
  expect(dse_tensor(model, 0, DSE_INPUT, 0, &in) == DSE_OK, "it has an input");
  dse_tensor(model, 0, DSE_OUTPUT, 0, &out);
  dse_tensor(model, 1, DSE_INPUT, 0, &other);
  expect(in.data != out.data, "inputs and outputs lie apart on the host");
  memcpy(in.data, "fifteen letters", 16);
  for (int i = 0; i < 3; i++) expect(dse_run(model, 0) == DSE_OK, "it runs");
  expect(!memcmp(out.data, "fifteen letters", 16), "what is in the arena comes back");
  expect(!memcmp(in.data, "fifteen letters", 16), "inputs keep their contents");
  expect(number("fake_launches") == 9, "each step is launched once a run");
  expect(number("fake_graph_launches") == 2, "the graph is replayed from the second run on");
  expect(dse_run(model, 1) == DSE_OK, "the other entry runs");
  uint64_t times[3] = {0};
  expect(dse_run_timed(model, 0, times, 3) == DSE_OK && times[2] == 500000, "steps are timed");
  pid_t child = fork();
  if (child == 0) {
    int refused = dse_run(model, 0) == DSE_ERROR_THREADS;
    dse_close(model); /* must not call the driver */
    _exit(refused ? 0 : 1);
  }
  int status;
  waitpid(child, &status, 0);
  expect(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a forked child only closes");
  dse_close(model);
  expect_nothing_left();
}

static void refuse(int driver, int sm, dse_status status) {
  dse_model *model;
  reset(driver, sm);
  expect(dse_open(NULL, &model) == status && !model, "it doesn't open");
  printf("open %d %s\n", status, dse_last_error(NULL));
  expect_nothing_left();
}

static void fail_open(int code) {
  for (int call = 1;; call++) {
    dse_model *model;
    reset(12040, 87);
    fail_at(call, code);
    dse_status status = dse_open(NULL, &model);
    if (number("fake_calls") < call) {
      expect(status == DSE_OK, "no call failed");
      fail_at(0, 0);
      dse_close(model);
      expect_nothing_left();
      return;
    }
    if (status == DSE_OK) { /* the call was one to give back */
      dse_close(model);
    } else {
      printf("open %d %s\n", status, dse_last_error(NULL));
      expect(!model, "no model on failure");
    }
    expect_nothing_left();
  }
}

static void fail_run(int code, int timed) {
  for (int call = 1;; call++) {
    dse_model *model;
    uint64_t times[3];
    reset(12040, 87);
    expect(dse_open(NULL, &model) == DSE_OK, "it opens");
    fail_at(call, code);
    dse_status status = timed ? dse_run_timed(model, 0, times, 3) : dse_run(model, 0);
    int calls = number("fake_calls");
    if (status != DSE_OK)
      printf("%s %d %s\n", timed ? "timed" : "run", status, dse_last_error(model));
    fail_at(0, 0);
    expect(dse_run(model, 0) == DSE_OK && dse_run(model, 0) == DSE_OK, "it runs again");
    dse_close(model);
    expect_nothing_left();
    if (calls < call) return;
  }
}

static void run_without_graphs(void) {
  dse_model *model;
  reset(12040, 87);
  ((void (*)(int))dlsym(library, "fake_refuse_capture"))(1);
  expect(dse_open(NULL, &model) == DSE_OK, "it opens");
  for (int i = 0; i < 3; i++) expect(dse_run(model, 0) == DSE_OK, "it runs");
  expect(number("fake_launches") == 9 && number("fake_graph_launches") == 0, "without a graph");
  dse_close(model);
  expect_nothing_left();
}

int main(int count, char **arguments) {
  static const int codes[] = {2, 100, 209, 999, 719};
  if (count > 1 && !strcmp(arguments[1], "nodriver")) {
    dse_model *model;
    dse_status status = dse_open(NULL, &model);
    printf("open %d %s\n", status, dse_last_error(NULL));
    return 0;
  }
  library = dlopen("libcuda.so.1", RTLD_NOW);
  expect(library != NULL, "there is a driver");
  run_well();
  refuse(11040, 87, DSE_ERROR_DRIVER);
  refuse(12040, 0, DSE_ERROR_NO_DEVICE);
  refuse(12040, 90, DSE_ERROR_FEATURE);
  refuse(12040, 86, DSE_ERROR_FEATURE);
  for (unsigned i = 0; i < sizeof codes / sizeof *codes; i++) {
    fail_open(codes[i]);
    fail_run(codes[i], 0);
    fail_run(codes[i], 1);
  }
  run_without_graphs();
  return 0;
}
