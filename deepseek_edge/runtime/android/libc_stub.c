/* libc_stub.c: stands in for Android's libc.so while a library is linked, so that no NDK is
 * needed. Only the names matter: on the phone the real libc.so is loaded. All are in API 24. */
#define STUB(name) \
  void name(void) {}

/* runtime */
STUB(memcpy) STUB(memset) STUB(memmove) STUB(memcmp) STUB(strlen) STUB(mmap) STUB(munmap)
STUB(syscall) STUB(getpid) STUB(clock_gettime) STUB(getauxval) STUB(pthread_create)
STUB(pthread_join)
