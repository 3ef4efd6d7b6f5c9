/* bundle.h: a bundle whose every byte is checked before it is used. */
#ifndef DSE_RUN_BUNDLE_H
#define DSE_RUN_BUNDLE_H

#include "platform.h"
#include "zip.h"

typedef struct {
  archive zip;
  struct stat status; /* when it was opened */
  uint8_t sha256[MAX_MEMBERS][32]; /* by member, as DIGESTS says */
  int is_listed[MAX_MEMBERS];
  int is_signed; /* DIGESTS.sig is there; it is not checked here */
} bundle;

/* Opens the file and notes what it is; nothing is read. */
void open_bundle(bundle *opened, const char *path);

/* Checks the layout and reads DIGESTS: afterwards single members can be read. */
void read_digests(bundle *opened);

/* Checks every member, and that the file is still the one that was opened. If `program` is not
 * NULL, its content is also written to the descriptor `copy`. */
void verify_members(const bundle *opened, const member *program, int copy);

/* Reads one member into `data`, of exactly its size, and checks it. */
void read_member(const bundle *opened, const member *entry, void *data);

/* The library of a program, or the first program's if `id` is NULL; ends if there is none. */
const member *find_program(const bundle *opened, const char *id);

/* The library of the program behind another one's, or of the first if that is NULL; or NULL. */
const member *next_program(const bundle *opened, const member *before);

/* The id in "programs/ID/model.so". */
void program_id(const member *program, char id[MAX_NAME + 1]);

#endif
