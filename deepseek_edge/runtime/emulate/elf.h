/* elf.h: loads a shared library of AArch64 into a static program, which has no dlopen. */
#ifndef DSE_EMULATE_ELF_H
#define DSE_EMULATE_ELF_H

#include <stdint.h>

/* Loads, relocates and initializes a library; its memory stays until the process ends.
 * Returns NULL, or says in at most `size` bytes of `error` why not. */
typedef struct library library;
const library *load_library(const char *path, char *error, int size);

/* The address of an exported function, or NULL. */
void *find_symbol(const library *loaded, const char *name);

/* What the library may import (libc.c), or NULL. */
void *find_import(const char *name);

#endif
