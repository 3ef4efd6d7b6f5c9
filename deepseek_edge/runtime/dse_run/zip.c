/* zip.c: numbers are those of APPNOTE.TXT 4.3.7, 4.3.12 and 4.3.16. */
#include "zip.h"

#include "exits.h"
#include "platform.h"

enum { LOCAL_BYTES = 30, CENTRAL_BYTES = 46, END_BYTES = 22 };

static uint8_t directory[MAX_MEMBERS * (CENTRAL_BYTES + MAX_NAME)];

static uint32_t u16(const uint8_t *at) { return at[0] | (uint32_t)at[1] << 8; }
static uint32_t u32(const uint8_t *at) { return u16(at) | u16(at + 2) << 16; }

void read_exactly(int descriptor, void *data, uint64_t bytes, uint64_t offset) {
  char *at = data;
  while (bytes) {
    long done = pread64(descriptor, at, bytes, (int64_t)offset);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) refuse("it can't be read at byte %llu", (unsigned long long)offset);
    if (done == 0) refuse("it ends early, at byte %llu", (unsigned long long)offset);
    at += done, offset += (uint64_t)done, bytes -= (uint64_t)done;
  }
}

static int is_letter_or_digit(uint8_t c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

/* Parts of letters, digits and _ . + -, each beginning with one of the first three, so that
 * neither "", ".", ".." nor a hidden file can be one. */
static void check_name(const uint8_t *name, uint32_t length) {
  int depth = 1, at_start = 1;
  for (uint32_t i = 0; i < length; i++) {
    if (name[i] == '/') {
      if (at_start) break;
      at_start = 1, depth++;
      continue;
    }
    int plain = is_letter_or_digit(name[i]);
    if (!plain && (at_start || (name[i] != '.' && name[i] != '+' && name[i] != '-'))) {
      at_start = 1;
      break;
    }
    at_start = 0;
  }
  if (at_start || length == 0)
    refuse("a member name is empty, absolute, a folder, '..', or has other characters than "
           "A-Z a-z 0-9 _ . + - /");
  if (depth > MAX_DEPTH) refuse("a member name is deeper than %d levels", MAX_DEPTH);
}

static uint32_t read_end(int descriptor, int64_t size, uint32_t *start, uint32_t *length) {
  uint8_t end[END_BYTES];
  if (size < END_BYTES) refuse("%lld bytes are too few for a zip file", (long long)size);
  if (size > INT32_MAX) refuse("%lld bytes are more than %d", (long long)size, INT32_MAX);
  read_exactly(descriptor, end, END_BYTES, (uint64_t)size - END_BYTES);
  if (u32(end) != 0x06054b50 || u16(end + 20))
    refuse("no end record in the last 22 bytes: cut off, commented or appended to");
  if (u16(end + 4) || u16(end + 6) || u16(end + 8) != u16(end + 10))
    refuse("it is one of several volumes");
  uint32_t count = u16(end + 10);
  *length = u32(end + 12), *start = u32(end + 16);
  if (count > MAX_MEMBERS) refuse("%u members, at most %d are allowed", count, MAX_MEMBERS);
  if ((uint64_t)*start + *length != (uint64_t)size - END_BYTES)
    refuse("prepended bytes, ZIP64, or a gap before the end record");
  if (*length > count * (uint64_t)(CENTRAL_BYTES + MAX_NAME))
    refuse("the central directory is larger than its entries can be");
  return count;
}

/* Everything but name, CRC, size and offset has one legal value. */
static void check_central(const uint8_t *row, const member *entry, uint64_t expected_offset) {
  static const uint8_t fixed[16] = {'P', 'K', 1, 2, 20, 3, 20, 0, 0, 0, 0, 0, 0, 0, 0x21, 0};
  const char *name = entry->name;
  if (memcmp(row, fixed, 4)) refuse("%s has no entry in the central directory", name);
  if (u16(row + 10)) refuse("%s is compressed", name);
  if (memcmp(row, fixed, sizeof fixed))
    refuse("%s has flags, a time or a version of zip that bundles don't have", name);
  if (u32(row + 20) != u32(row + 24)) refuse("%s claims two sizes", name);
  if (u16(row + 30)) refuse("%s has an extra field, such as ZIP64's", name);
  if (u16(row + 32) || u16(row + 34)) refuse("%s has a comment, or lies on another volume", name);
  if (u16(row + 36) || u32(row + 38) != 0100644u << 16)
    refuse("%s is not a plain file with mode 644", name);
  if (u32(row + 42) != expected_offset)
    refuse("%s begins at byte %u: overlap, duplicate, gap or order", name, u32(row + 42));
}

static void check_local(int descriptor, const uint8_t *row, uint32_t name_length,
                        uint64_t offset, const char *name) {
  uint8_t found[LOCAL_BYTES + MAX_NAME], expected[LOCAL_BYTES + MAX_NAME] = {'P', 'K', 3, 4};
  memcpy(expected + 4, row + 6, 24); /* version needed ... name length are in the same order */
  memcpy(expected + LOCAL_BYTES, row + CENTRAL_BYTES, name_length);
  read_exactly(descriptor, found, LOCAL_BYTES + name_length, offset);
  if (memcmp(found, expected, LOCAL_BYTES + name_length))
    refuse("%s: its local header differs from the central directory", name);
}

static char lower(char c) { return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c; }

static int is_same_file(const char *a, const char *b) {
  while (*a && lower(*a) == lower(*b)) a++, b++;
  return lower(*a) == lower(*b);
}

void read_layout(archive *zip, int descriptor, int64_t size) {
  uint32_t start, length, position = 0;
  uint32_t count = read_end(descriptor, size, &start, &length);
  read_exactly(descriptor, directory, length, start);
  uint64_t offset = 0;
  for (uint32_t i = 0; i < count; i++) {
    const uint8_t *row = directory + position;
    member *entry = &zip->members[i];
    if (length - position < CENTRAL_BYTES) refuse("the central directory ends early");
    uint32_t name_length = u16(row + 28);
    if (name_length > MAX_NAME) refuse("a member name has more than %d bytes", MAX_NAME);
    if (length - position - CENTRAL_BYTES < name_length) refuse("the central directory ends early");
    check_name(row + CENTRAL_BYTES, name_length);
    memcpy(entry->name, row + CENTRAL_BYTES, name_length);
    entry->name[name_length] = 0;
    check_central(row, entry, offset);
    entry->crc = u32(row + 16), entry->size = u32(row + 24);
    entry->offset = offset + LOCAL_BYTES + name_length;
    if (entry->offset + entry->size > start) refuse("%s reaches into the directory", entry->name);
    check_local(descriptor, row, name_length, offset, entry->name);
    offset = entry->offset + entry->size;
    position += CENTRAL_BYTES + name_length;
    for (uint32_t j = 0; j < i; j++)
      if (is_same_file(zip->members[j].name, entry->name)) refuse("%s is there twice", entry->name);
  }
  if (position != length) refuse("bytes after the last entry of the central directory");
  if (offset != start) refuse("a gap between the last member and the central directory");
  zip->descriptor = descriptor;
  zip->n_members = (int)count;
}

const member *find_member(const archive *zip, const char *name) {
  for (int i = 0; i < zip->n_members; i++)
    if (strcmp(zip->members[i].name, name) == 0) return &zip->members[i];
  return NULL;
}
