/* dse_call.c: calls a kernel through a pointer of its own type, one case for each arity. */
#include "dse_internal.h"

#define V1 void *
#define V2 V1, V1
#define V3 V2, V1
#define V4 V2, V2
#define V5 V4, V1
#define V6 V4, V2
#define V7 V4, V3
#define V8 V4, V4
#define V9 V8, V1
#define V10 V8, V2
#define V11 V8, V3
#define V12 V8, V4
#define V13 V8, V5
#define V14 V8, V6
#define V15 V8, V7
#define V16 V8, V8
#define V17 V16, V1
#define V18 V16, V2
#define V19 V16, V3
#define V20 V16, V4
#define V21 V16, V5
#define V22 V16, V6
#define V23 V16, V7
#define V24 V16, V8

#define T1(i) t[i]
#define T2(i) T1(i), T1(i + 1)
#define T3(i) T2(i), T1(i + 2)
#define T4(i) T2(i), T2(i + 2)
#define T5(i) T4(i), T1(i + 4)
#define T6(i) T4(i), T2(i + 4)
#define T7(i) T4(i), T3(i + 4)
#define T8(i) T4(i), T4(i + 4)
#define T9(i) T8(i), T1(i + 8)
#define T10(i) T8(i), T2(i + 8)
#define T11(i) T8(i), T3(i + 8)
#define T12(i) T8(i), T4(i + 8)
#define T13(i) T8(i), T5(i + 8)
#define T14(i) T8(i), T6(i + 8)
#define T15(i) T8(i), T7(i + 8)
#define T16(i) T8(i), T8(i + 8)
#define T17(i) T16(i), T1(i + 16)
#define T18(i) T16(i), T2(i + 16)
#define T19(i) T16(i), T3(i + 16)
#define T20(i) T16(i), T4(i + 16)
#define T21(i) T16(i), T5(i + 16)
#define T22(i) T16(i), T6(i + 16)
#define T23(i) T16(i), T7(i + 16)
#define T24(i) T16(i), T8(i + 16)

#define CASE(n)                                                                  \
  case n:                                                                        \
    ((void (*)(V##n, int32_t, int32_t))call->kernel)(T##n(0), begin, end);       \
    return

void dse_call_kernel(const dse_call *call, int32_t begin, int32_t end) {
  void *const *t = call->tensors;
  switch (call->n_tensors) {
    CASE(1); CASE(2); CASE(3); CASE(4); CASE(5); CASE(6); CASE(7); CASE(8);
    CASE(9); CASE(10); CASE(11); CASE(12); CASE(13); CASE(14); CASE(15); CASE(16);
    CASE(17); CASE(18); CASE(19); CASE(20); CASE(21); CASE(22); CASE(23); CASE(24);
  }
}
