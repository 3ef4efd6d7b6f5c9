/* golden.h: does the program compute here what it computed where it was made? */
#ifndef DSE_RUN_GOLDEN_H
#define DSE_RUN_GOLDEN_H

#include "bundle.h"
#include "library.h"

/* Runs the golden tensors of a program and prints a line for each output. Returns 1 if all are
 * within their tolerance, else 0. */
int run_golden(const bundle *opened, const char *program, const library *loaded, dse_model *model);

/* The largest absolute difference of two arrays; infinity if only one has a NaN somewhere. */
double largest_difference(const void *a, const void *b, uint64_t bytes, int32_t dtype);

#endif
