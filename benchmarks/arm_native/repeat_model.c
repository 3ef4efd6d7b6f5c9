/* repeat_model.c: repeat-model LIBRARY INPUTS RUNS
 *
 * Runs the first entry of a model.so on one thread a number of times, with a call of getppid
 * before the first and after each, where count_plugin.c takes down its count. The call's argument
 * is the address of dse_abi_version. Linked with runtime/emulate's loader, static. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "deepseek_edge.h"
#include "emulate/elf.h"

static const library *loaded;

static void fail(const char *message) {
  fprintf(stderr, "%s\n", message);
  exit(1);
}

#define FUNCTION(name) ((__typeof__(name) *)find_symbol(loaded, #name))

int main(int argc, char **argv) {
  if (argc != 4) fail("usage: repeat-model LIBRARY INPUTS RUNS");
  char error[256];
  loaded = load_library(argv[1], error, sizeof error);
  if (!loaded) fail(error);
  dse_options options = {.struct_size = sizeof options, .threads = 1};
  dse_model *model;
  if (FUNCTION(dse_open)(&options, &model) != DSE_OK) fail(FUNCTION(dse_last_error)(NULL));
  FILE *file = fopen(argv[2], "rb");
  dse_entry_info info;
  if (!file || FUNCTION(dse_entry)(model, 0, &info) != DSE_OK) fail("can't open the inputs");
  for (int i = 0; i < info.inputs; i++) {
    dse_tensor_info tensor;
    FUNCTION(dse_tensor)(model, 0, DSE_INPUT, i, &tensor);
    if (fread(tensor.data, 1, tensor.size_bytes, file) != tensor.size_bytes)
      fail("the file of inputs is too short");
  }
  syscall(SYS_getppid, find_symbol(loaded, "dse_abi_version"));
  for (int run = 0; run < atoi(argv[3]); run++) {
    if (FUNCTION(dse_run)(model, 0) != DSE_OK) fail(FUNCTION(dse_last_error)(model));
    syscall(SYS_getppid, find_symbol(loaded, "dse_abi_version"));
  }
  return 0;
}
