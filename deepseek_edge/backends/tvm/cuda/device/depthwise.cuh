// depthwise.cuh: convolution of each channel by itself: a thread computes V channels of a pixel.
//
// Weights lie as taps x channels. Of S: as gather.cuh; C, OFFSET (what is subtracted from int8
// input), V, Sum.

template <class S, class Input, class Weight, class Finish>
DSE_DEVICE void dse_depthwise(const Input *input, const Weight *weights, Finish finish) {
  constexpr int BLOCKS = S::C / S::V;
  int number = blockIdx.x * blockDim.x + threadIdx.x;
  int pixel = number / BLOCKS, channel = number % BLOCKS * S::V;
  Window<S> window;
  window.start(pixel);
  if (!window.exists) return;
  typename S::Sum sums[S::V] = {};
#pragma unroll
  for (int r = 0; r < S::KH; r++)
#pragma unroll
    for (int s = 0; s < S::KW; s++) {
      if (!window.has(r, s)) continue;
      typename S::Sum x[S::V], w[S::V];
      dse_load<S::V>(x, input + window.at(r, s) + channel);
      dse_load<S::V>(w, weights + (r * S::KW + s) * S::C + channel);
#pragma unroll
      for (int v = 0; v < S::V; v++) sums[v] += (x[v] - S::OFFSET) * w[v];
    }
  finish(sums, pixel, channel);
}
