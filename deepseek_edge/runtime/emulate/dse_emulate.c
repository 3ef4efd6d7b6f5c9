/* dse_emulate.c: dse-emulate LIBRARY ENTRY THREADS INPUTS OUTPUTS
 *
 * Runs one entry of a model.so once, under qemu-user on a machine with no AArch64 libraries at
 * all. INPUTS and OUTPUTS hold the raw tensors one after the other. Static: it brings its libc
 * and its own loader. Exit status: 0 done, 1 failed, 2 usage, 3 the CPU lacks a feature.
 */
#include <stdio.h>
#include <stdlib.h>

#include "../deepseek_edge.h"
#include "elf.h"

static const library *loaded;

static void fail(int status, const char *message) {
  fprintf(stderr, "%s\n", message);
  exit(status);
}

static void *function(const char *name) {
  void *address = find_symbol(loaded, name);
  if (!address) fail(1, "the library is not a compiled model");
  return address;
}

#define FUNCTION(name) ((__typeof__(name) *)function(#name))

/* Reads (or writes) all tensors of one direction; the file must end with the last. */
static void transfer(dse_model *model, int entry, dse_direction direction, const char *path) {
  FILE *file = fopen(path, direction == DSE_INPUT ? "rb" : "wb");
  dse_entry_info info;
  dse_tensor_info tensor;
  if (!file || FUNCTION(dse_entry)(model, entry, &info) != DSE_OK)
    fail(1, file ? FUNCTION(dse_last_error)(model) : "can't open the file of tensors");
  int count = direction == DSE_INPUT ? info.inputs : info.outputs;
  for (int i = 0; i < count; i++) {
    FUNCTION(dse_tensor)(model, entry, direction, i, &tensor);
    size_t done = direction == DSE_INPUT ? fread(tensor.data, 1, tensor.size_bytes, file)
                                         : fwrite(tensor.data, 1, tensor.size_bytes, file);
    if (done != tensor.size_bytes) fail(1, "the file of tensors is too short, or the disk full");
  }
  if (direction == DSE_INPUT && fgetc(file) != EOF) fail(1, "the file of inputs is too long");
  if (fclose(file) != 0) fail(1, "the disk is full");
}

int main(int argc, char **argv) {
  if (argc != 6) fail(2, "usage: dse-emulate LIBRARY ENTRY THREADS INPUTS OUTPUTS");
  char error[256];
  loaded = load_library(argv[1], error, sizeof error);
  if (!loaded) fail(1, error);

  dse_options options = {.struct_size = sizeof options, .threads = atoi(argv[3])};
  dse_model *model;
  dse_status status = FUNCTION(dse_open)(&options, &model);
  if (status != DSE_OK) fail(status == DSE_ERROR_FEATURE ? 3 : 1, FUNCTION(dse_last_error)(NULL));
  int entry = atoi(argv[2]);
  transfer(model, entry, DSE_INPUT, argv[4]);
  if (FUNCTION(dse_run)(model, entry) != DSE_OK) fail(1, FUNCTION(dse_last_error)(model));
  transfer(model, entry, DSE_OUTPUT, argv[5]);
  FUNCTION(dse_close)(model);
  return 0;
}
