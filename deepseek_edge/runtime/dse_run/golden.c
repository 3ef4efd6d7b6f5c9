/* golden.c: golden/index.txt has lines "program entry input|output index tolerance file". */
#include "golden.h"

#include "exits.h"

#define INDEX "golden/index.txt"
enum { MAX_INDEX_BYTES = 1 << 18, FIELDS = 6 };

typedef struct {
  const char *program;
  int entry, index;
  dse_direction direction;
  double tolerance;
  const member *file;
} row;

static char text[MAX_INDEX_BYTES + 1];
static row rows[MAX_MEMBERS];

static int small_number(const char *word) {
  int value = 0;
  for (const char *at = word; *at; at++) {
    if (*at < '0' || *at > '9' || at - word > 4) refuse(INDEX " has a bad number");
    value = value * 10 + (*at - '0');
  }
  if (!*word) refuse(INDEX " has a bad number");
  return value;
}

static double tolerance(const char *word) {
  char *rest;
  for (const char *at = word; *at; at++)
    if (!strchr("0123456789.e+-", *at)) refuse(INDEX " has a bad tolerance");
  double value = strtod(word, &rest);
  if (rest == word || *rest || !(value >= 0 && value < __builtin_inf()))
    refuse(INDEX " has a bad tolerance");
  return value;
}

static void parse_row(const bundle *opened, char *line, row *parsed) {
  char *words[FIELDS];
  for (int i = 0; i < FIELDS; i++) {
    words[i] = line;
    char *space = strchr(line, ' ');
    if (!space != (i == FIELDS - 1)) refuse(INDEX " has a line of not %d words", FIELDS);
    if (space) *space = 0, line = space + 1;
  }
  int is_input = strcmp(words[2], "input") == 0;
  if (!is_input && strcmp(words[2], "output")) refuse(INDEX " has a line of neither kind");
  parsed->program = words[0];
  parsed->entry = small_number(words[1]);
  parsed->direction = is_input ? DSE_INPUT : DSE_OUTPUT;
  parsed->index = small_number(words[3]);
  parsed->tolerance = tolerance(words[4]);
  parsed->file = find_member(&opened->zip, words[5]);
  if (!parsed->file) refuse(INDEX " names a file that is missing");
}

static int read_index(const bundle *opened) {
  int count = 0;
  const member *index = find_member(&opened->zip, INDEX);
  if (!index) return 0;
  if (index->size > MAX_INDEX_BYTES) refuse(INDEX " has more than %d bytes", MAX_INDEX_BYTES);
  read_member(opened, index, text);
  text[index->size] = 0;
  if (strlen(text) != index->size) refuse(INDEX " has a zero byte");
  for (char *line = text; *line; count++) {
    char *line_end = strchr(line, '\n');
    if (!line_end || count == MAX_MEMBERS) refuse(INDEX " is cut off or too long");
    *line_end = 0;
    parse_row(opened, line, &rows[count]);
    line = line_end + 1;
  }
  return count;
}

static void find_tensor(const library *loaded, const dse_model *model, const row *golden,
                        dse_tensor_info *tensor) {
  if (loaded->tensor(model, golden->entry, golden->direction, golden->index, tensor) != DSE_OK)
    refuse(INDEX ": %s", loaded->last_error(model));
  if (golden->file->size != tensor->size_bytes)
    refuse("%s has not the size of its tensor", golden->file->name);
}

static int compare_output(const bundle *opened, const library *loaded, const dse_model *model,
                          const row *golden) {
  dse_entry_info entry;
  dse_tensor_info tensor;
  find_tensor(loaded, model, golden, &tensor);
  loaded->entry(model, golden->entry, &entry);
  size_t room = tensor.size_bytes ? tensor.size_bytes : 1;
  void *expected = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (expected == MAP_FAILED) end(EXIT_FAILED, "no memory for a golden tensor");
  read_member(opened, golden->file, expected);
  double largest = largest_difference(tensor.data, expected, tensor.size_bytes, tensor.dtype);
  munmap(expected, room);
  int good = largest <= golden->tolerance;
  print("%s %s %s %s max_abs %.9g tolerance %.9g\n", good ? "ok" : "MISMATCH", golden->program,
        entry.name, tensor.name, largest, golden->tolerance);
  return good;
}

/* Runs one entry if the index has tensors for it; adds the outputs compared to *compared. */
static int run_entry(const bundle *opened, const char *program, const library *loaded,
                     dse_model *model, int entry, int n_rows, int *compared) {
  dse_entry_info info;
  int inputs = 0, outputs = 0, good = 1;
  loaded->entry(model, entry, &info);
  for (int i = 0; i < n_rows; i++) {
    if (strcmp(rows[i].program, program) || rows[i].entry != entry) continue;
    outputs += rows[i].direction == DSE_OUTPUT;
    if (rows[i].direction == DSE_OUTPUT) continue;
    dse_tensor_info tensor;
    find_tensor(loaded, model, &rows[i], &tensor);
    read_member(opened, rows[i].file, tensor.data);
    inputs++;
  }
  if (!inputs && !outputs) return 1;
  if (inputs != info.inputs || outputs != info.outputs)
    refuse(INDEX " has not all tensors of entry %s of program %s", info.name, program);
  if (loaded->run(model, entry) != DSE_OK) end(EXIT_FAILED, "%s", loaded->last_error(model));
  for (int i = 0; i < n_rows; i++)
    if (!strcmp(rows[i].program, program) && rows[i].entry == entry &&
        rows[i].direction == DSE_OUTPUT)
      good &= compare_output(opened, loaded, model, &rows[i]);
  *compared += outputs;
  return good;
}

int run_golden(const bundle *opened, const char *program, const library *loaded,
               dse_model *model) {
  int n_rows = read_index(opened), entries = loaded->entries(model), compared = 0, good = 1;
  for (int i = 0; i < n_rows; i++)
    if (!strcmp(rows[i].program, program) && rows[i].entry >= entries)
      refuse(INDEX " has tensors of entry %d: program %s has %d", rows[i].entry, program, entries);
  for (int entry = 0; entry < entries; entry++)
    good &= run_entry(opened, program, loaded, model, entry, n_rows, &compared);
  if (!compared) end(EXIT_FAILED, "the bundle has no golden tensors of program %s", program);
  return good;
}
