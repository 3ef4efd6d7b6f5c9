#include "cache.h"

#include "sha256.h"

enum { RECORD_BYTES = 1024, SETTLED_S = 2 };

static int is_private(int descriptor, uint32_t forbidden, struct stat *status) {
  return fstat(descriptor, status) == 0 && status->st_uid == geteuid() &&
         (status->st_mode & forbidden) == 0;
}

static int open_directory(void) {
  struct stat status;
  const char *base = getenv("XDG_RUNTIME_DIR");
  if (!base && geteuid() == 0) base = "/run";
  if (!base || base[0] != '/') return -1;
  int parent = open(base, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (parent < 0) return -1;
  mkdirat(parent, "deepseek-edge", 0700);
  int found = openat(parent, "deepseek-edge", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  close(parent);
  if (found >= 0 && is_private(found, 0077, &status)) return found;
  if (found >= 0) close(found);
  return -1;
}

static int describe_file(char *text, size_t size, const struct stat *file) {
  return snprintf(text, size, "%llu %llu %lld %lld.%09ld %lld.%09ld\n",
                  (unsigned long long)file->st_dev, (unsigned long long)file->st_ino,
                  (long long)file->st_size, (long long)file->st_mtim.tv_sec,
                  (long)file->st_mtim.tv_nsec, (long long)file->st_ctim.tv_sec,
                  (long)file->st_ctim.tv_nsec);
}

/* A change within one tick of the file system's clock leaves the ctime as it is: files that were
 * changed just now are not cached yet. */
static int is_settled(const struct stat *file) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return now.tv_sec - file->st_ctim.tv_sec >= SETTLED_S;
}

static int read_boot_id(char *id, size_t size) {
  int descriptor = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
  long bytes = descriptor < 0 ? -1 : read(descriptor, id, size - 1);
  if (descriptor >= 0) close(descriptor);
  if (bytes < 36) return 0;
  id[36] = 0;
  return 1;
}

/* By path and program, so that a new bundle in the place of an old one replaces its files. */
static int name_files(cache *place, int bundle, const char *program) {
  char link[64], path[4096];
  uint8_t digest[32];
  sha256 hash;
  snprintf(link, sizeof link, "/proc/self/fd/%d", bundle);
  long bytes = readlink(link, path, sizeof path);
  if (bytes <= 0 || bytes == (long)sizeof path) return 0;
  sha256_start(&hash);
  sha256_add(&hash, path, (size_t)bytes);
  sha256_add(&hash, "", 1);
  sha256_add(&hash, program, strlen(program));
  sha256_end(&hash, digest);
  for (int i = 0; i < 16; i++) snprintf(place->record + 2 * i, 3, "%02x", digest[i]);
  snprintf(place->library, sizeof place->library, "%.32s.so", place->record);
  return 1;
}

void open_cache(cache *place, int bundle, const struct stat *status, const char *program) {
  char boot[64], file[160];
  if (!program) program = "-";
  place->directory = -1;
  if (!is_settled(status) || !read_boot_id(boot, sizeof boot)) return;
  if (!name_files(place, bundle, program)) return;
  describe_file(file, sizeof file, status);
  snprintf(place->identity, sizeof place->identity, "%s %.200s %s", boot, program, file);
  place->directory = open_directory();
}

/* identity, then the library's file, then the program's id, a line each. */
static int write_record(const cache *place, char text[RECORD_BYTES], const struct stat *library,
                        const char *program) {
  char file[160];
  describe_file(file, sizeof file, library);
  return snprintf(text, RECORD_BYTES, "%s%s%s\n", place->identity, file, program);
}

static int read_private(const cache *place, const char *name, struct stat *status) {
  int flags = O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK;
  int descriptor = openat(place->directory, name, flags);
  if (descriptor < 0) return -1;
  if (is_private(descriptor, 0377, status) && S_ISREG(status->st_mode)) return descriptor;
  close(descriptor);
  return -1;
}

/* The last line of a record: the id of the program that it was made for. */
static int last_line(char *record, long bytes, char *program, size_t size) {
  if (bytes < 2 || record[bytes - 1] != '\n') return 0;
  record[bytes - 1] = 0;
  const char *line = strrchr(record, '\n');
  if (!line || strlen(line + 1) >= size) return 0;
  memcpy(program, line + 1, strlen(line + 1) + 1);
  record[bytes - 1] = '\n';
  return 1;
}

int find_cached(const cache *place, char *program, size_t size) {
  char found[RECORD_BYTES], expected[RECORD_BYTES];
  struct stat record_status, library_status;
  if (place->directory < 0) return -1;
  int record = read_private(place, place->record, &record_status);
  if (record < 0) return -1;
  long bytes = read(record, found, sizeof found - 1);
  close(record);
  if (bytes <= 0) return -1;
  found[bytes] = 0;
  if (!last_line(found, bytes, program, size)) return -1;
  int library = read_private(place, place->library, &library_status);
  if (library < 0) return -1;
  int length = write_record(place, expected, &library_status, program);
  if (length == bytes && memcmp(found, expected, (size_t)bytes) == 0) return library;
  close(library);
  return -1;
}

/* A new file of mode 400 under a temporary name, with the content of memory or of a descriptor. */
static int create(const cache *place, const char *name, const char *text, int from) {
  static char chunk[1 << 18];
  unlinkat(place->directory, name, 0);
  int to = openat(place->directory, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                  0400);
  if (to < 0) return -1;
  for (int64_t offset = 0;;) {
    long bytes = (long)(text ? strlen(text) : 0);
    if (!text) bytes = pread64(from, chunk, sizeof chunk, offset);
    if (bytes == 0) return to;
    if (bytes < 0 || write(to, text ? text : chunk, (size_t)bytes) != bytes) break;
    if (text) return to;
    offset += bytes;
  }
  close(to);
  unlinkat(place->directory, name, 0);
  return -1;
}

void keep(const cache *place, int descriptor, const char *program) {
  char text[RECORD_BYTES], temporary[2][64];
  struct stat status;
  if (place->directory < 0) return;
  for (int i = 0; i < 2; i++)
    snprintf(temporary[i], sizeof temporary[i], ".%d.%d", (int)getpid(), i);
  int library = create(place, temporary[0], NULL, descriptor);
  if (library < 0) return;
  /* Renamed first: a rename changes the ctime, which the record holds. */
  if (renameat(place->directory, temporary[0], place->directory, place->library) == 0 &&
      fstat(library, &status) == 0) {
    write_record(place, text, &status, program);
    int record = create(place, temporary[1], text, -1);
    if (record >= 0) close(record);
    if (record >= 0) renameat(place->directory, temporary[1], place->directory, place->record);
  }
  close(library);
  unlinkat(place->directory, temporary[0], 0);
  unlinkat(place->directory, temporary[1], 0);
}
