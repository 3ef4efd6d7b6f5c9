/* start_android.c: what the NDK's crtbegin_dynamic.o does: hands the kernel's stack to libc. */
#if defined(DSE_ANDROID)

#include <stddef.h>

int main(int, char **, char **);
void __libc_init(void *stack, void (*at_exit)(void), int (*start)(int, char **, char **),
                 void *const *arrays) __attribute__((noreturn));

__attribute__((used, noreturn)) static void start(void *stack) {
  /* Constructors and destructors of this program: there are none. */
  static void *const arrays[8];
  __libc_init(stack, NULL, main, arrays);
}

__asm__(
    ".globl _start\n_start:\n  mov x29, #0\n  mov x30, #0\n  mov x0, sp\n  b start\n");

#endif
