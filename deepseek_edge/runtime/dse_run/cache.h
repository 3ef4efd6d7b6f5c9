/* cache.h: libraries that were verified since this machine started.
 *
 * A private directory holds, for each bundle and program, the extracted library and a record that
 * names both files by device, inode, size and times. It also holds the boot id.
 * ctime can't be set back by whoever changes a file, so what the record says is there unchanged.
 * Whatever is not exactly so is ignored, and the bundle verified again. */
#ifndef DSE_RUN_CACHE_H
#define DSE_RUN_CACHE_H

#include "platform.h"

typedef struct {
  int directory; /* -1: none, nothing is cached */
  char library[72], record[72]; /* names in the directory */
  char identity[512];           /* of the bundle, the program and this boot */
} cache;

/* Finds the place for one program (NULL: the first) of an open bundle. */
void open_cache(cache *place, int bundle, const struct stat *status, const char *program);

/* A descriptor of the library verified before, and its program id; or -1. */
int find_cached(const cache *place, char *program, size_t size);

/* Keeps a copy of the verified library in `descriptor`. Not being able to is no error. */
void keep(const cache *place, int descriptor, const char *program);

#endif
