// simt_gemm.cuh: matrix product without tensor cores, for any GPU, element type and shape.
//
// 256 threads compute 64 x 64 results, 4 x 4 each; both operands pass through shared memory as the
// numbers they stand for, BK at a time; or int8 four at a time, as dp4a multiplies them. Sums of
// int8 are exact.
//
// More of S: Sum (float or int), STEP (elements of k that are one number here: 1, or 4), K (of such
// numbers), N (columns of a group), N_PADDED (of a packed line: weights lie as K x N_PADDED x STEP),
// V, GROUPS; OFFSET, what is subtracted from int8 input with STEP 1, or ZERO, what fills up.

template <class S, class Input>
DSE_DEVICE typename S::Sum dse_left(const Window<S> &window, const Input *input, int group, int k) {
  const Input *at = k < S::K ? dse_find<S>(window, input, group, k * S::STEP) : nullptr;
  if constexpr (S::STEP == 4)
    return at ? *(const int *)at : (int)(0x01010101u * (uint32_t)(uint8_t)S::ZERO);
  else
    return at ? dse_value(*at) - S::OFFSET : 0;
}

template <class S, class Weight>
DSE_DEVICE typename S::Sum dse_right(const Weight *weights, int k, int column) {
  if (k >= S::K) return 0;
  if constexpr (S::STEP == 4) return ((const int *)weights)[k * S::N_PADDED + column];
  else return dse_value(weights[k * S::N_PADDED + column]);
}

template <class S>
DSE_DEVICE void dse_accumulate(typename S::Sum &sum, typename S::Sum a, typename S::Sum b) {
  if constexpr (S::STEP == 4) sum = dse_dot4(a, b, sum);
  else sum += a * b;
}

template <class S, class Input, class Weight, class Finish>
DSE_DEVICE void dse_simt_gemm(const Input *input, const Weight *weights, Finish finish) {
  constexpr int BM = 64, BN = 64, BK = 16, PITCH = BM + 4;
  typedef typename S::Sum Sum;
  DSE_SHARED_MEMORY(shared);
  Sum *left = (Sum *)shared, *right = left + BK * PITCH;
  int tid = threadIdx.x, group = blockIdx.z, m0 = blockIdx.x * BM, n0 = blockIdx.y * BN;
  // Neighbouring threads read neighbouring k of one row, or rows where k lies apart.
  int k_first = S::CHANNEL_STRIDE == 1 ? tid % BK : tid / BM * 4;
  int m_first = S::CHANNEL_STRIDE == 1 ? tid / BK : tid % BM;
  constexpr int ROWS = S::CHANNEL_STRIDE == 1 ? 4 : 1, DEPTH = 4 / ROWS;
  Window<S> windows[ROWS];
#pragma unroll
  for (int i = 0; i < ROWS; i++) windows[i].start(m0 + m_first + i * 16);
  weights += ((int64_t)group * S::K * S::N_PADDED + n0) * S::STEP;
  int ty = tid / 16, tx = tid % 16;
  Sum sums[4][4] = {};
  for (int k0 = 0; k0 < S::K; k0 += BK) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      int k = k_first + i % DEPTH, row = i / DEPTH, line = tid / BN + i * 4;
      left[k * PITCH + m_first + row * 16] = dse_left<S>(windows[row], input, group, k0 + k);
      right[line * BN + tid % BN] = dse_right<S>(weights, k0 + line, tid % BN);
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < BK; k++)
#pragma unroll
      for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
          dse_accumulate<S>(sums[i][j], left[k * PITCH + ty * 4 + i], right[k * BN + tx * 4 + j]);
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 4; i++)
#pragma unroll
    for (int j = 0; j < 4; j += S::V) {
      int row = m0 + ty * 4 + i, column = n0 + tx * 4 + j;
      if (row >= S::M || column >= S::N) continue;
      Sum values[S::V];
#pragma unroll
      for (int v = 0; v < S::V; v++) values[v] = sums[i][j + v];
      finish(values, row, group * S::N + column);
    }
}
