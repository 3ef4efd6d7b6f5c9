/* dse_libc.h: the few functions of the C library that the runtime calls.
 *
 * Android's headers come with the NDK, which isn't needed here: its libc has the same functions
 * with the same types, so they are declared by hand. Types whose size differs between C
 * libraries (mutexes, attributes, FILE) are not used at all.
 */
#ifndef DSE_LIBC_H
#define DSE_LIBC_H

#include <stddef.h>
#include <stdint.h>

#if defined(DSE_ANDROID)

typedef long pthread_t;
struct timespec {
  long tv_sec, tv_nsec;
};
void *memcpy(void *, const void *, size_t);
void *memset(void *, int, size_t);
int memcmp(const void *, const void *, size_t);
size_t strlen(const char *);
void *mmap(void *, size_t, int, int, int, long);
int munmap(void *, size_t);
long syscall(long, ...);
int getpid(void);
int clock_gettime(int, struct timespec *);
unsigned long getauxval(unsigned long);
int pthread_create(pthread_t *, const void *, void *(*)(void *), void *);
int pthread_join(pthread_t, void **);
#define PROT_READ 1
#define PROT_WRITE 2
#define MAP_PRIVATE 2
#define MAP_ANONYMOUS 32
#define MAP_FAILED ((void *)-1)
#define CLOCK_MONOTONIC 1
#define SYS_openat 56
#define SYS_close 57
#define SYS_read 63
#define SYS_futex 98
#define SYS_sched_setaffinity 122
#define SYS_sched_getaffinity 123
#define SYS_rt_sigprocmask 135

#else

#include <pthread.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#endif

static inline uint64_t dse_now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

#endif
