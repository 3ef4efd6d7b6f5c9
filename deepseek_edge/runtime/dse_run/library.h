/* library.h: the functions of one loaded model.so. */
#ifndef DSE_RUN_LIBRARY_H
#define DSE_RUN_LIBRARY_H

#include "../deepseek_edge.h"

typedef struct {
  __typeof__(dse_abi_version) *abi_version;
  __typeof__(dse_open) *open;
  __typeof__(dse_entries) *entries;
  __typeof__(dse_entry) *entry;
  __typeof__(dse_tensor) *tensor;
  __typeof__(dse_run) *run;
  __typeof__(dse_last_error) *last_error;
} library;

/* A file in memory that only this process can reach. */
int make_memory_file(void);

/* Loads the library in a descriptor, which nobody else can write any more. */
void load_library(library *loaded, int descriptor);

/* Opens its model; last_error(NULL) says what went wrong. */
dse_status open_model(const library *loaded, int threads, dse_model **model);

/* True if the program is for another CPU, GPU or driver: another one may run here. */
int is_elsewhere(dse_status status);

#endif
