// simt_gemm.cuh: matrix product without tensor cores, for any GPU, element type and shape.
//
// 256 threads compute 64 x 64 results, 4 x 4 each; both operands pass through shared memory as the
// numbers they stand for, BK at a time. Sums of int8 are exact.
//
// More of S: Sum (float or int), N (columns of a group), N_PADDED (of a packed line: weights lie
// as k x N_PADDED), K, OFFSET (what is subtracted from int8 input), V, GROUPS.

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
  weights += (int64_t)group * S::K * S::N_PADDED + n0;
  int ty = tid / 16, tx = tid % 16;
  Sum sums[4][4] = {};
  for (int k0 = 0; k0 < S::K; k0 += BK) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      int k = k_first + i % DEPTH, row = i / DEPTH;
      Input value;
      bool found = k0 + k < S::K && dse_gather<S>(windows[row], input, group, k0 + k, value);
      left[k * PITCH + m_first + row * 16] = found ? dse_value(value) - S::OFFSET : 0;
      int line = tid / BN + i * 4;
      right[line * BN + tid % BN] =
          k0 + line < S::K ? dse_value(weights[(k0 + line) * S::N_PADDED + tid % BN]) : 0;
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < BK; k++)
#pragma unroll
      for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
          sums[i][j] += left[k * PITCH + ty * 4 + i] * right[k * BN + tx * 4 + j];
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
