/* libm_stub.c: as libc_stub.c, for what the kernels may take from libm.so. */
#define STUB(name) \
  void name(void) {}           \
  void name##f(void) {}

STUB(acos) STUB(acosh) STUB(asin) STUB(asinh) STUB(atan) STUB(atan2) STUB(atanh) STUB(cbrt)
STUB(ceil) STUB(copysign) STUB(cos) STUB(cosh) STUB(erf) STUB(erfc) STUB(exp) STUB(exp2)
STUB(expm1) STUB(fabs) STUB(floor) STUB(fma) STUB(fmax) STUB(fmin) STUB(fmod) STUB(hypot)
STUB(ldexp) STUB(log) STUB(log10) STUB(log1p) STUB(log2) STUB(nearbyint) STUB(pow)
STUB(remainder) STUB(rint) STUB(round) STUB(sin) STUB(sinh) STUB(sqrt) STUB(tan) STUB(tanh)
STUB(tgamma) STUB(trunc)
