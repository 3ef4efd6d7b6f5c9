/* libc.c: the functions of libc and libm that a model.so may import, taken from musl.
 *
 * Android's names are among them (__errno). Of libm it is what backends' kernels may call, the
 * same list as in android/libm_stub.c. */
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <string.h>
#include <strings.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "elf.h"

static int *android_errno(void) { return &errno; }

#define SAME(name) {#name, (void *)name}
#define BOTH(name) {#name, (void *)name}, {#name "f", (void *)name##f}

static const struct {
  const char *name;
  void *address;
} imports[] = {
    SAME(memcpy), SAME(memset), SAME(memmove), SAME(memcmp), SAME(bcmp), SAME(strlen), SAME(mmap),
    SAME(munmap), SAME(syscall), SAME(getpid), SAME(clock_gettime), SAME(getauxval),
    SAME(pthread_create), SAME(pthread_join), {"__errno", (void *)android_errno},
    {"__errno_location", (void *)android_errno},
    BOTH(acos), BOTH(acosh), BOTH(asin), BOTH(asinh), BOTH(atan), BOTH(atan2), BOTH(atanh),
    BOTH(cbrt), BOTH(ceil), BOTH(copysign), BOTH(cos), BOTH(cosh), BOTH(erf), BOTH(erfc),
    BOTH(exp), BOTH(exp2), BOTH(expm1), BOTH(fabs), BOTH(floor), BOTH(fma), BOTH(fmax),
    BOTH(fmin), BOTH(fmod), BOTH(hypot), BOTH(ldexp), BOTH(log), BOTH(log10), BOTH(log1p),
    BOTH(log2), BOTH(nearbyint), BOTH(pow), BOTH(remainder), BOTH(rint), BOTH(round), BOTH(sin),
    BOTH(sinh), BOTH(sqrt), BOTH(tan), BOTH(tanh), BOTH(tgamma), BOTH(trunc),
};

void *find_import(const char *name) {
  for (unsigned i = 0; i < sizeof imports / sizeof imports[0]; i++)
    if (strcmp(imports[i].name, name) == 0) return imports[i].address;
  return NULL;
}
