#include "golden.h"

static float half(uint16_t bits) {
  int exponent = bits >> 10 & 31;
  float fraction = (float)(bits & 1023), value;
  if (exponent == 31) value = fraction ? __builtin_nanf("") : __builtin_inff();
  else if (exponent == 0) value = fraction * 0x1p-24f;
  else value = (1024 + fraction) * (float)(1ull << exponent) * 0x1p-25f;
  return bits >> 15 ? -value : value;
}

static double element(const void *data, uint64_t index, int32_t dtype) {
  switch (dtype) {
    case DSE_FLOAT32: return ((const float *)data)[index];
    case DSE_INT8: return ((const int8_t *)data)[index];
    case DSE_INT32: return ((const int32_t *)data)[index];
    case DSE_INT64: return (double)((const int64_t *)data)[index];
    case DSE_FLOAT16: return half(((const uint16_t *)data)[index]);
    default: return ((const uint8_t *)data)[index];
  }
}

double largest_difference(const void *a, const void *b, uint64_t bytes, int32_t dtype) {
  static const uint8_t sizes[] = {1, 4, 1, 1, 4, 8, 1, 2}; /* by dse_dtype */
  double largest = 0;
  /* Equal bytes are equal, NaN included, and so are int64 that a double can't tell apart. */
  if (memcmp(a, b, bytes) == 0) return 0;
  for (uint64_t i = 0; i < bytes / sizes[dtype]; i++) {
    double x = element(a, i, dtype), y = element(b, i, dtype), difference = x < y ? y - x : x - y;
    int x_nan = x != x, y_nan = y != y;
    if (x == y || (x_nan && y_nan)) difference = 0;
    else if (difference != difference) difference = __builtin_inf();
    if (difference > largest) largest = difference;
  }
  if (largest == 0 && dtype == DSE_INT64) return 1; /* they differ, beyond 2^53 */
  return largest;
}
