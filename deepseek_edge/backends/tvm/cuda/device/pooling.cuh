// pooling.cuh: the largest of each window: a thread computes V channels of a pixel.
//
// Of S: as gather.cuh; C, V, Sum.

template <class S, class Input, class Finish>
DSE_DEVICE void dse_max_pool(const Input *input, Finish finish) {
  constexpr int BLOCKS = S::C / S::V;
  int number = blockIdx.x * blockDim.x + threadIdx.x;
  int pixel = number / BLOCKS, channel = number % BLOCKS * S::V;
  Window<S> window;
  window.start(pixel);
  if (!window.exists) return;
  typename S::Sum most[S::V];
  bool is_first = true;
#pragma unroll
  for (int r = 0; r < S::KH; r++)
#pragma unroll
    for (int s = 0; s < S::KW; s++) {
      if (!window.has(r, s)) continue;
      typename S::Sum x[S::V];
      dse_load(x, input + window.at(r, s) + channel);
#pragma unroll
      for (int v = 0; v < S::V; v++) most[v] = is_first ? x[v] : dse_max(most[v], x[v]);
      is_first = false;
    }
  finish(most, pixel, channel);
}
