/* zip.h: the layout of a bundle, a zip of stored members with one legal spelling
 * (docs/bundle.md; deepseek_edge/stored_zip.py is the same in Python). */
#ifndef DSE_RUN_ZIP_H
#define DSE_RUN_ZIP_H

#include <stdint.h>

enum { MAX_MEMBERS = 1024, MAX_NAME = 200, MAX_DEPTH = 3 };

typedef struct {
  char name[MAX_NAME + 1];
  uint32_t size, crc;
  uint64_t offset; /* of the first content byte */
} member;

typedef struct {
  int descriptor;
  int n_members;
  member members[MAX_MEMBERS]; /* in the order in which they lie in the file */
} archive;

/* Fills the archive from an open file of `size` bytes, or refuses it. */
void read_layout(archive *zip, int descriptor, int64_t size);

/* The member of this name, or NULL. */
const member *find_member(const archive *zip, const char *name);

/* Reads exactly that many bytes, or refuses the bundle. */
void read_exactly(int descriptor, void *data, uint64_t bytes, uint64_t offset);

#endif
