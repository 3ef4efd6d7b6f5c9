#include "library.h"

#include "exits.h"
#include "platform.h"

#define MEMORY_CLOEXEC 1u
#define MEMORY_SEALABLE 2u
#define MEMORY_EXEC 16u /* since Linux 6.3; older ones refuse it and need no such flag */
#define ALL_SEALS 15 /* no more seals, no shrinking, growing or writing */

int make_memory_file(void) {
  const unsigned flags = MEMORY_CLOEXEC | MEMORY_SEALABLE;
  long descriptor = syscall(SYS_memfd_create, "model.so", flags | MEMORY_EXEC);
  if (descriptor < 0) descriptor = syscall(SYS_memfd_create, "model.so", flags);
  if (descriptor < 0) end(EXIT_FAILED, "this kernel has no memory files (memfd_create)");
  return (int)descriptor;
}

/* /run is mounted noexec on many systems; then the library is copied into memory. */
static int make_executable(int descriptor) {
  static char chunk[1 << 18];
  void *page = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, descriptor, 0);
  if (page != MAP_FAILED) {
    munmap(page, 4096);
    return descriptor;
  }
  int copy = make_memory_file();
  for (int64_t offset = 0;;) {
    long bytes = pread64(descriptor, chunk, sizeof chunk, offset);
    if (bytes == 0) return copy;
    if (bytes < 0 || write(copy, chunk, (size_t)bytes) != bytes)
      end(EXIT_FAILED, "no memory for the program's library");
    offset += bytes;
  }
}

static void *function(void *handle, const char *name) {
  void *address = dlsym(handle, name);
  if (!address) end(EXIT_UNSUPPORTED, "the program's library has no %s", name);
  return address;
}

void load_library(library *loaded, int descriptor) {
  char path[64];
  descriptor = make_executable(descriptor);
  fcntl(descriptor, F_ADD_SEALS, ALL_SEALS); /* fails for a file of the cache, which is read-only */
  snprintf(path, sizeof path, "/proc/self/fd/%d", descriptor);
  void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!handle) end(EXIT_UNSUPPORTED, "the program can't be loaded here: %s", dlerror());
  *loaded = (library){
      function(handle, "dse_abi_version"), function(handle, "dse_open"),
      function(handle, "dse_entries"),     function(handle, "dse_entry"),
      function(handle, "dse_tensor"),      function(handle, "dse_run"),
      function(handle, "dse_last_error"),
  };
  if (loaded->abi_version() != DSE_ABI_VERSION)
    end(EXIT_UNSUPPORTED, "the program has version %u of the C interface, dse-run has %u",
        loaded->abi_version(), DSE_ABI_VERSION);
}

dse_status open_model(const library *loaded, int threads, dse_model **model) {
  dse_options options = {.struct_size = sizeof options, .threads = threads};
  return loaded->open(&options, model);
}

int is_elsewhere(dse_status status) {
  return status == DSE_ERROR_FEATURE || status == DSE_ERROR_NO_DEVICE || status == DSE_ERROR_DRIVER;
}
