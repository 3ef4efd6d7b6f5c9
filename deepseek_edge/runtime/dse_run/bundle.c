#include "bundle.h"

#include "crc32.h"
#include "exits.h"
#include "sha256.h"

#define DIGESTS "DIGESTS"
#define SIGNATURE "DIGESTS.sig"
enum { CHUNK = 1 << 18, SIGNATURE_BYTES = 64 };
enum { MAX_LINE = 64 + 1 + 10 + 1 + MAX_NAME + 1 };

static uint8_t chunk[CHUNK];
static char digests[MAX_MEMBERS * MAX_LINE + 1];

void open_bundle(bundle *opened, const char *path) {
  /* Opening a FIFO for reading would wait for a writer. */
  int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) end(EXIT_USAGE, "can't open the bundle %s", path);
  opened->zip.descriptor = descriptor;
  if (fstat(descriptor, &opened->status) != 0 || !S_ISREG(opened->status.st_mode))
    refuse("it is not a regular file");
}

static void write_all(int descriptor, const uint8_t *data, size_t bytes) {
  while (bytes) {
    long done = write(descriptor, data, bytes);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) end(EXIT_FAILED, "no memory for the program's library");
    data += done, bytes -= (size_t)done;
  }
}

/* Passes a member through the CRC and SHA-256, to memory or to a descriptor if they are given. */
static void check_member(const bundle *opened, const member *entry, uint8_t *data, int copy) {
  sha256 hash;
  uint8_t digest[32];
  uint32_t crc = 0;
  sha256_start(&hash);
  for (uint32_t done = 0; done < entry->size;) {
    uint32_t bytes = entry->size - done < CHUNK ? entry->size - done : CHUNK;
    uint8_t *to = data ? data + done : chunk;
    read_exactly(opened->zip.descriptor, to, bytes, entry->offset + done);
    sha256_add(&hash, to, bytes);
    crc = crc32_add(crc, to, bytes);
    if (copy >= 0) write_all(copy, to, bytes);
    done += bytes;
  }
  sha256_end(&hash, digest);
  if (crc != entry->crc) refuse("%s: the CRC-32 is not that of its content", entry->name);
  int64_t index = entry - opened->zip.members;
  if (opened->is_listed[index] && memcmp(digest, opened->sha256[index], 32))
    refuse("%s: the digest is not the one in DIGESTS", entry->name);
}

static int hex(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* "sha256 size name": sets the member's digest and returns it. `line` ends with a zero byte. */
static const member *parse_line(bundle *opened, const char *line) {
  uint8_t digest[32];
  size_t length = strlen(line);
  if (length < 68 || line[64] != ' ') refuse("a line of DIGESTS is not 'sha256 size name'");
  for (int i = 0; i < 32; i++) {
    int high = hex(line[2 * i]), low = hex(line[2 * i + 1]);
    if (high < 0 || low < 0) refuse("a line of DIGESTS is not 'sha256 size name'");
    digest[i] = (uint8_t)(high << 4 | low);
  }
  const char *at = line + 65;
  uint64_t size = 0;
  int digits = 0, leading_zero = *at == '0';
  for (; *at >= '0' && *at <= '9' && digits < 11; at++, digits++)
    size = size * 10 + (uint64_t)(*at - '0');
  if (digits == 0 || digits > 10 || (leading_zero && digits > 1) || *at != ' ')
    refuse("a line of DIGESTS is not 'sha256 size name'");
  const member *entry = find_member(&opened->zip, at + 1);
  if (!entry) refuse("%.200s is listed in DIGESTS but missing", at + 1);
  if (entry->size != size) refuse("%s has not the size that DIGESTS says", entry->name);
  if (strcmp(entry->name, DIGESTS) == 0 || strcmp(entry->name, SIGNATURE) == 0)
    refuse("DIGESTS lists itself");
  int64_t index = entry - opened->zip.members;
  memcpy(opened->sha256[index], digest, 32);
  opened->is_listed[index] = 1;
  return entry;
}

static void parse_digests(bundle *opened, uint32_t bytes) {
  const char *previous = "";
  if (bytes == 0 || digests[bytes - 1] != '\n') refuse("DIGESTS does not end with a line feed");
  for (uint32_t i = 0; i < bytes; i++)
    if (digests[i] == 0) refuse("DIGESTS has a zero byte");
  for (char *line = digests; *line;) {
    char *line_end = strchr(line, '\n');
    *line_end = 0;
    const member *entry = parse_line(opened, line);
    if (strcmp(entry->name, previous) <= 0) refuse("DIGESTS is not in order at %s", entry->name);
    previous = entry->name;
    line = line_end + 1;
  }
}

void read_digests(bundle *opened) {
  archive *zip = &opened->zip;
  read_layout(zip, zip->descriptor, opened->status.st_size);
  const member *list = find_member(zip, DIGESTS), *signature = find_member(zip, SIGNATURE);
  if (!list) refuse("no member DIGESTS");
  if (signature && signature->size != SIGNATURE_BYTES)
    refuse("DIGESTS.sig has not %d bytes", SIGNATURE_BYTES);
  if (list->size > MAX_MEMBERS * MAX_LINE) refuse("DIGESTS is larger than its lines can be");
  opened->is_signed = signature != NULL;
  const member *last = &zip->members[zip->n_members - 1];
  if (last - opened->is_signed != list || (signature && signature != last))
    refuse("DIGESTS is not the last member, or only before its signature");
  if (strcmp(zip->members[0].name, "manifest.json")) refuse("manifest.json is not the first member");
  check_member(opened, list, (uint8_t *)digests, -1);
  parse_digests(opened, list->size);
  for (int i = 0; i < zip->n_members; i++)
    if (!opened->is_listed[i] && &zip->members[i] != list && &zip->members[i] != signature)
      refuse("%s is not listed in DIGESTS", zip->members[i].name);
}

static int is_same_time(struct timespec a, struct timespec b) {
  return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

void verify_members(const bundle *opened, const member *program, int copy) {
  struct stat now;
  for (int i = 0; i < opened->zip.n_members; i++) {
    const member *entry = &opened->zip.members[i];
    check_member(opened, entry, NULL, entry == program ? copy : -1);
  }
  if (fstat(opened->zip.descriptor, &now) != 0 || now.st_size != opened->status.st_size ||
      !is_same_time(now.st_mtim, opened->status.st_mtim) ||
      !is_same_time(now.st_ctim, opened->status.st_ctim))
    refuse("it was changed while it was read");
}

void read_member(const bundle *opened, const member *entry, void *data) {
  check_member(opened, entry, data, -1);
}

static int is_program(const member *entry) {
  const char *slash = strrchr(entry->name, '/');
  return strncmp(entry->name, "programs/", 9) == 0 && slash > entry->name + 9 &&
         strcmp(slash, "/model.so") == 0;
}

void program_id(const member *program, char id[MAX_NAME + 1]) {
  size_t length = strlen(program->name) - 9 - 9; /* without "programs/" and "/model.so" */
  memcpy(id, program->name + 9, length);
  id[length] = 0;
}

const member *next_program(const bundle *opened, const member *before) {
  int first = before ? (int)(before - opened->zip.members) + 1 : 0;
  for (int i = first; i < opened->zip.n_members; i++)
    if (is_program(&opened->zip.members[i])) return &opened->zip.members[i];
  return NULL;
}

const member *find_program(const bundle *opened, const char *wanted) {
  char id[MAX_NAME + 1];
  const member *entry = NULL;
  while ((entry = next_program(opened, entry))) {
    program_id(entry, id);
    if (!wanted || strcmp(id, wanted) == 0) return entry;
  }
  if (wanted) end(EXIT_USAGE, "the bundle has no program %s: see dse-run info", wanted);
  refuse("it has no program");
}
