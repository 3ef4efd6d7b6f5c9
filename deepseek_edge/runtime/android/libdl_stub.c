/* libdl_stub.c: as libc_stub.c, for dse-run. */
#define STUB(name) \
  void name(void) {}

STUB(dlerror) STUB(dlopen) STUB(dlsym)
