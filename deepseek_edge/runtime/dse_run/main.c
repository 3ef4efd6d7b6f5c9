/* main.c: dse-run info|verify|golden|bench BUNDLE [--program ID] [--threads N] [--runs N]
 *
 * info    what the bundle holds; the layout and DIGESTS are checked, the rest is not read
 * verify  every byte
 * golden  verifies, loads the program, and compares its outputs with those in the bundle
 * bench   verifies, loads the program, and prints its latency as JSON
 *
 * A program is loaded only after all of the bundle was checked, from a private copy made while it
 * was checked. golden and bench take a copy that was verified since the machine started, if the
 * bundle is unchanged. Exit status: exits.h.
 */
#include "bench.h"
#include "bundle.h"
#include "cache.h"
#include "exits.h"
#include "golden.h"

static const char usage[] =
    "usage: dse-run info|verify|golden|bench BUNDLE [--program ID] [--threads N] [--runs N]";

typedef struct {
  const char *verb, *path, *program;
  int threads, runs;
} arguments;

static bundle opened;

static int number(const char *word, int least, int most) {
  char *rest;
  long value = strtol(word, &rest, 10);
  if (rest == word || *rest || value < least || value > most)
    end(EXIT_USAGE, "%s is not a number from %d to %d", word, least, most);
  return (int)value;
}

static arguments parse(int count, char **words) {
  arguments parsed = {.threads = 0, .runs = 100};
  if (count < 3) end(EXIT_USAGE, "%s", usage);
  parsed.verb = words[1], parsed.path = words[2];
  for (int i = 3; i < count; i += 2) {
    if (i + 1 == count) end(EXIT_USAGE, "%s needs a value", words[i]);
    if (strcmp(words[i], "--program") == 0) parsed.program = words[i + 1];
    else if (strcmp(words[i], "--threads") == 0) parsed.threads = number(words[i + 1], 0, 256);
    else if (strcmp(words[i], "--runs") == 0) parsed.runs = number(words[i + 1], 1, MAX_RUNS);
    else end(EXIT_USAGE, "%s", usage);
  }
  return parsed;
}

static int show_info(void) {
  char id[MAX_NAME + 1];
  read_digests(&opened);
  print("members %d\nsize_bytes %lld\nsigned %s\n", opened.zip.n_members,
        (long long)opened.status.st_size, opened.is_signed ? "yes" : "no");
  for (int i = 0; i < opened.zip.n_members; i++) {
    const member *entry = &opened.zip.members[i];
    size_t length = strlen(entry->name);
    if (strncmp(entry->name, "programs/", 9) || length < 19 ||
        strcmp(entry->name + length - 9, "/model.so"))
      continue;
    program_id(entry, id);
    print("program %s %u bytes\n", id, entry->size);
  }
  return EXIT_DONE;
}

static int show_verified(void) {
  read_digests(&opened);
  verify_members(&opened, NULL, -1);
  print("ok %d members%s\n", opened.zip.n_members,
        opened.is_signed ? ", signature not checked" : ", not signed");
  return EXIT_DONE;
}

typedef struct {
  library functions;
  char id[MAX_NAME + 1];
  int is_cached;   /* it had been verified before, since this machine started */
  int copy;        /* else: what was verified and loaded */
  int is_fallback; /* programs that are preferred to it can't run here */
} program;

static void load_verified(const member *file, program *loaded) {
  loaded->is_cached = 0;
  loaded->copy = make_memory_file();
  verify_members(&opened, file, loaded->copy);
  program_id(file, loaded->id);
  load_library(&loaded->functions, loaded->copy);
}

static void load_program(const arguments *wanted, const cache *place, program *loaded) {
  int known = find_cached(place, loaded->id, sizeof loaded->id);
  loaded->is_fallback = 0;
  if (known >= 0) {
    loaded->is_cached = 1;
    load_library(&loaded->functions, known);
    return;
  }
  read_digests(&opened);
  load_verified(find_program(&opened, wanted->program), loaded);
}

/* Opens the program, or the next one that can run here if none was named. */
static dse_model *open_program(const arguments *wanted, program *loaded) {
  dse_model *model;
  dse_status status;
  while ((status = open_model(&loaded->functions, wanted->threads, &model)) != DSE_OK) {
    const char *reason = loaded->functions.last_error(NULL);
    if (loaded->is_cached) read_digests(&opened);
    const member *next = next_program(&opened, find_program(&opened, loaded->id));
    if (wanted->program || !next || !is_elsewhere(status))
      end(is_elsewhere(status) ? EXIT_UNSUPPORTED : EXIT_FAILED, "%s", reason);
    note("%s is passed over: %s", loaded->id, reason);
    load_verified(next, loaded);
    loaded->is_fallback = 1;
  }
  return model;
}

static int is_verb(const char *verb) {
  static const char *const verbs[] = {"info", "verify", "golden", "bench"};
  for (unsigned i = 0; i < sizeof verbs / sizeof verbs[0]; i++)
    if (strcmp(verb, verbs[i]) == 0) return 1;
  return 0;
}

int main(int count, char **words) {
  uint64_t start_ns = dse_now_ns();
  arguments wanted = parse(count, words);
  if (!is_verb(wanted.verb)) end(EXIT_USAGE, "%s", usage);
  open_bundle(&opened, wanted.path);
  if (strcmp(wanted.verb, "info") == 0) return show_info();
  if (strcmp(wanted.verb, "verify") == 0) return show_verified();

  cache place;
  program loaded;
  int status = EXIT_DONE;
  open_cache(&place, opened.zip.descriptor, &opened.status, wanted.program);
  load_program(&wanted, &place, &loaded);
  dse_model *model = open_program(&wanted, &loaded);
  if (strcmp(wanted.verb, "bench") == 0) {
    uint64_t open_ns = dse_now_ns() - start_ns;
    run_bench(loaded.id, &loaded.functions, model, wanted.threads, wanted.runs, open_ns,
              loaded.is_cached);
  } else {
    if (loaded.is_cached) read_digests(&opened);
    int good = run_golden(&opened, loaded.id, &loaded.functions, model);
    status = good ? EXIT_DONE : EXIT_FAILED;
  }
  /* Last, so that the first answer doesn't wait for it. A program that stands in for another isn't
   * kept: what was in the way may be gone at the next start. */
  if (!loaded.is_cached && !loaded.is_fallback) keep(&place, loaded.copy, loaded.id);
  return status;
}
