/* count_malloc.c: loaded with LD_PRELOAD, counts what this process takes from the heap. */
#include <stddef.h>

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t),
    *__libc_memalign(size_t, size_t);
long allocations;

static void count(void) { __atomic_fetch_add(&allocations, 1, __ATOMIC_SEQ_CST); }

void *malloc(size_t size) { return count(), __libc_malloc(size); }
void *calloc(size_t n, size_t size) { return count(), __libc_calloc(n, size); }
void *realloc(void *block, size_t size) { return count(), __libc_realloc(block, size); }
void *aligned_alloc(size_t alignment, size_t size) {
  return count(), __libc_memalign(alignment, size);
}
