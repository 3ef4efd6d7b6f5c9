/* libc_stub.c: stands in for Android's libc.so while a library is linked, so that no NDK is
 * needed. Only the names matter: on the phone the real libc.so is loaded. All are in API 24. */
#define STUB(name) \
  void name(void) {}

/* runtime */
STUB(memcpy) STUB(memset) STUB(memmove) STUB(memcmp) STUB(strlen) STUB(mmap) STUB(munmap)
STUB(syscall) STUB(getpid) STUB(clock_gettime) STUB(getauxval) STUB(pthread_create)
STUB(pthread_join)

/* dse-run */
STUB(__errno) STUB(__libc_init) STUB(_exit) STUB(close) STUB(fcntl) STUB(fstat)
STUB(geteuid) STUB(getenv) STUB(memchr) STUB(mkdirat) STUB(open) STUB(openat) STUB(pread64) STUB(read)
STUB(readlink) STUB(renameat) STUB(snprintf) STUB(strchr) STUB(strcmp) STUB(strncmp) STUB(strrchr)
STUB(strtod) STUB(strtol) STUB(unlinkat) STUB(vsnprintf) STUB(write)
