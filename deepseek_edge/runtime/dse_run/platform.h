/* platform.h: what dse-run takes from the C library; by hand for Android (see ../dse_libc.h). */
#ifndef DSE_RUN_PLATFORM_H
#define DSE_RUN_PLATFORM_H

#include "../dse_libc.h"

#if defined(DSE_ANDROID)

struct stat { /* Linux, include/uapi/asm-generic/stat.h */
  uint64_t st_dev, st_ino;
  uint32_t st_mode, st_nlink, st_uid, st_gid;
  uint64_t st_rdev, pad1;
  int64_t st_size;
  int32_t st_blksize, pad2;
  int64_t st_blocks;
  struct timespec st_atim, st_mtim, st_ctim;
  uint32_t unused[2];
};
int open(const char *, int, ...);
int openat(int, const char *, int, ...);
int close(int);
int fstat(int, struct stat *);
int mkdirat(int, const char *, uint32_t);
int renameat(int, const char *, int, const char *);
int unlinkat(int, const char *, int);
int fcntl(int, int, ...);
int *__errno(void);
uint32_t geteuid(void);
long read(int, void *, size_t);
long readlink(const char *, char *, size_t);
long write(int, const void *, size_t);
long pread64(int, void *, size_t, int64_t);
char *getenv(const char *);
double strtod(const char *, char **);
long strtol(const char *, char **, int);
int strcmp(const char *, const char *);
int strncmp(const char *, const char *, size_t);
char *strchr(const char *, int);
char *strrchr(const char *, int);
int snprintf(char *, size_t, const char *, ...);
int vsnprintf(char *, size_t, const char *, __builtin_va_list);
void *dlopen(const char *, int);
void *dlsym(void *, const char *);
char *dlerror(void);
void _exit(int) __attribute__((noreturn));
#define errno (*__errno())
#define EINVAL 22
#define EINTR 4
#define CLOCK_REALTIME 0
#define F_ADD_SEALS 1033
#define O_CLOEXEC 02000000
#define O_CREAT 0100
#define O_DIRECTORY 040000
#define O_EXCL 0200
#define O_NOFOLLOW 0100000
#define O_NONBLOCK 04000
#define O_RDONLY 0
#define O_WRONLY 1
#define PROT_EXEC 4
#define RTLD_LOCAL 0
#define RTLD_NOW 2
#define SYS_memfd_create 279
#define S_ISDIR(mode) (((mode)&0170000) == 0040000)
#define S_ISREG(mode) (((mode)&0170000) == 0100000)

#else

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#define pread64 pread /* off_t has 64 bits on every target */

#endif
#endif
