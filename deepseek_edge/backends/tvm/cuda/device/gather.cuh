// gather.cuh: a convolution as a matrix product: row m is an output pixel, column k of the left
// matrix the input under tap k / CG, channel k % CG of the group. A matrix product is a
// convolution with one tap.
//
// S, a step's constants: BATCH H W OH OW, KH KW SH SW DH DW PT PL (kernel, strides, dilations,
// padding), CG (channels of a group), strides of the input in elements: BATCH_STRIDE LINE_STRIDE
// PIXEL_STRIDE CHANNEL_STRIDE, M = BATCH * OH * OW, ZERO (what int8 stands for 0).

// Where an output pixel's window starts.
template <class S>
struct Window {
  int base, y, x;  // elements before the first tap; its line and column
  bool exists;

  __device__ __forceinline__ void start(int m) {
    exists = m < S::M;
    int row = m / S::OW;
    x = (m - row * S::OW) * S::SW - S::PL;
    int item = row / S::OH;
    y = (row - item * S::OH) * S::SH - S::PT;
    base = item * S::BATCH_STRIDE + y * S::LINE_STRIDE + x * S::PIXEL_STRIDE;
  }

  // Is this tap inside the image? Known at compile time where there is no padding.
  __device__ __forceinline__ bool has(int r, int s) const {
    if (!exists) return false;
    if constexpr (S::IS_PADDED) {
      int line = y + r * S::DH, column = x + s * S::DW;
      return line >= 0 && line < S::H && column >= 0 && column < S::W;
    }
    return true;
  }

  __device__ __forceinline__ int at(int r, int s) const {
    return base + r * (S::DH * S::LINE_STRIDE) + s * (S::DW * S::PIXEL_STRIDE);
  }
};

// Element k of a row of the left matrix, or null where it is the zero point's 0.
template <class S, class T>
DSE_DEVICE const T *dse_find(const Window<S> &window, const T *input, int group, int k) {
  int tap = k / S::CG, c = k - tap * S::CG;
  int r = tap / S::KW, s = tap - r * S::KW;
  if (tap >= S::KH * S::KW || !window.has(r, s)) return nullptr;
  return input + window.at(r, s) + (group * S::CG + c) * S::CHANNEL_STRIDE;
}
