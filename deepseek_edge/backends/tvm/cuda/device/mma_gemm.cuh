// mma_gemm.cuh: matrix product on tensor cores, sm_80 and newer.
//
// A block computes BM x BN results. Both operands come in slices of BK bytes along k through
// STAGES buffers of shared memory, filled ahead by asynchronous copies. Rows of a slice are chunks
// of 16 bytes; chunk c of row r lies in place c ^ swizzle(r), so that eight neighbouring rows meet
// in no bank. Half floats (k16) and int8 (k32) have fragments of the same bytes.
//
// The results pass through shared memory, so that a thread finishes V neighbouring columns: wide
// loads of what the step adds, one wide store.
//
// With SPLITS > 1 the blocks of a tile share its k; each leaves its sums in `partial`, and the one
// that comes last adds them in the order of k: the result doesn't depend on who that is.
//
// More of S: T (element), Sum (float or int), BM BN WARPS_M WARPS_N BK STAGES SPLITS, N (columns of
// a group), N_PADDED, K_PADDED (bytes of a packed row), VEC (bytes of a copy; 0: element by
// element), V, GROUPS.

template <int CHUNKS>
DSE_DEVICE int dse_place(int row, int chunk) {
  constexpr int BYTES = CHUNKS * 16;
  int swizzle = CHUNKS == 8 ? row & 7 : CHUNKS == 4 ? (row >> 1) & 3 : (row >> 2) & 1;
  return row * BYTES + ((chunk ^ swizzle) << 4);
}

template <class S, class Input>
struct Loader {
  static constexpr int CHUNKS = S::BK / 16;
  static constexpr int THREADS = 32 * S::WARPS_M * S::WARPS_N;
  static constexpr int STEP = THREADS / CHUNKS;
  static constexpr int ROWS_A = (S::BM + STEP - 1) / STEP;
  static constexpr int ROWS_B = (S::BN + STEP - 1) / STEP;
  static constexpr int SIZE = (int)sizeof(typename S::T);

  const Input *input;
  const unsigned char *weights;  // of the first column of the block
  int group, first, chunk;
  Window<S> windows[ROWS_A];

  __device__ __forceinline__ void start(const Input *from, const unsigned char *packed, int g,
                                        int m0, int n0) {
    input = from;
    group = g;
    weights = packed + (int64_t)(g * S::N_PADDED + n0) * S::K_PADDED;
    first = threadIdx.x / CHUNKS;
    chunk = threadIdx.x % CHUNKS;
#pragma unroll
    for (int i = 0; i < ROWS_A; i++) windows[i].start(m0 + first + i * STEP);
  }

  // Slice `slice` of both operands into one buffer.
  __device__ __forceinline__ void load(unsigned char *to, int slice) const {
#pragma unroll
    for (int i = 0; i < ROWS_A; i++) {
      int row = first + i * STEP;
      if (S::BM % STEP && row >= S::BM) break;
      load_left(windows[i], to + dse_place<CHUNKS>(row, chunk), slice * S::BK + chunk * 16);
    }
    to += S::BM * S::BK;
#pragma unroll
    for (int i = 0; i < ROWS_B; i++) {
      int row = first + i * STEP;
      if (S::BN % STEP && row >= S::BN) break;
      dse_copy_async<16>(to + dse_place<CHUNKS>(row, chunk),
                         weights + (int64_t)row * S::K_PADDED + slice * S::BK + chunk * 16);
    }
  }

  // 16 bytes of a row, from byte k on.
  __device__ __forceinline__ void load_left(const Window<S> &window, unsigned char *to,
                                            int k) const {
    constexpr uint32_t ZERO = 0x01010101u * (uint32_t)(uint8_t)S::ZERO;
    if constexpr (S::VEC == 0) {
      alignas(16) typename S::T values[16 / SIZE];
#pragma unroll
      for (int j = 0; j < 16 / SIZE; j++) {
        const Input *at = dse_find<S>(window, input, group, k / SIZE + j);
        values[j] = at ? S::packed(*at) : (typename S::T)S::ZERO;
      }
      *(uint4 *)to = *(const uint4 *)values;
    } else {
#pragma unroll
      for (int part = 0; part < 16; part += S::VEC) {
        int tap = (k + part) / (S::CG * SIZE), channel = (k + part) - tap * (S::CG * SIZE);
        int r = tap / S::KW, s = tap - r * S::KW;
        if (tap < S::KH * S::KW && window.has(r, s)) {
          const unsigned char *from =
              (const unsigned char *)(input + window.at(r, s) + group * S::CG) + channel;
          dse_copy_async<S::VEC>(to + part, from);
        } else {
#pragma unroll
          for (int word = 0; word < S::VEC / 4; word++) ((uint32_t *)(to + part))[word] = ZERO;
        }
      }
    }
  }
};

template <class S>
struct Sums {
  static constexpr int MI = S::BM / S::WARPS_M / 16, NI = S::BN / S::WARPS_N / 16;
  static constexpr int CHUNKS = S::BK / 16;
  typename S::Sum values[MI][NI][2][4];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
      for (int j = 0; j < NI; j++)
#pragma unroll
        for (int v = 0; v < 8; v++) values[i][j][v / 4][v % 4] = 0;
  }

  __device__ __forceinline__ void add_slice(const unsigned char *slice) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int m0 = warp % S::WARPS_M * MI * 16, n0 = warp / S::WARPS_M * NI * 16;
    const unsigned char *right = slice + S::BM * S::BK;
#pragma unroll
    for (int k = 0; k < CHUNKS; k += 2) {
      uint32_t a[MI][4], b[4];
#pragma unroll
      for (int i = 0; i < MI; i++)
        dse_load_matrices(a[i], slice + dse_place<CHUNKS>(m0 + i * 16 + lane % 16, k + lane / 16));
#pragma unroll
      for (int j = 0; j < NI; j++) {
        int row = n0 + j * 16 + lane / 16 * 8 + lane % 8;
        dse_load_matrices(b, right + dse_place<CHUNKS>(row, k + lane / 8 % 2));
#pragma unroll
        for (int i = 0; i < MI; i++) {
          dse_multiply(values[i][j][0], a[i], b[0], b[1]);
          dse_multiply(values[i][j][1], a[i], b[2], b[3]);
        }
      }
    }
  }

  static constexpr int PITCH = S::BN + 8;  // pairs of columns of eight rows meet in no bank

  __device__ __forceinline__ void leave(typename S::Sum *tile) const {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int m0 = warp % S::WARPS_M * MI * 16 + lane / 4;
    int n0 = warp / S::WARPS_M * NI * 16 + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
      for (int j = 0; j < NI; j++)
#pragma unroll
        for (int v = 0; v < 8; v++) {
          int row = m0 + i * 16 + v % 4 / 2 * 8, column = n0 + j * 16 + v / 4 * 8 + v % 2;
          tile[row * PITCH + column] = values[i][j][v / 4][v % 4];
        }
  }
};

// Writes this block's sums and takes those of all, if it is the tile's last; false if it isn't.
template <class S>
DSE_DEVICE bool dse_join(typename S::Sum *tile, typename S::Sum *partial, int *counters,
                         int split) {
  constexpr int THREADS = 32 * S::WARPS_M * S::WARPS_N, PITCH = Sums<S>::PITCH;
  constexpr int QUADS = S::BM * S::BN / 4;
  int number = (blockIdx.z / S::SPLITS * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  typedef typename S::Sum Sum;
  Sum *mine = partial + (int64_t)number * S::SPLITS * (S::BM * S::BN);
  for (int i = threadIdx.x; i < QUADS; i += THREADS) {
    int row = i / (S::BN / 4), column = i % (S::BN / 4) * 4;
    ((uint4 *)(mine + split * (S::BM * S::BN)))[i] = *(const uint4 *)(tile + row * PITCH + column);
  }
  __threadfence();
  __syncthreads();
  int *flag = (int *)tile;
  if (threadIdx.x == 0) *flag = atomicAdd(&counters[number], 1);
  __syncthreads();
  int arrived = *flag;
  __syncthreads();
  if (arrived != S::SPLITS - 1) return false;
  if (threadIdx.x == 0) counters[number] = 0;
  __threadfence();
  for (int i = threadIdx.x; i < QUADS; i += THREADS) {
    Sum total[4] = {0, 0, 0, 0};
#pragma unroll 4
    for (int s = 0; s < S::SPLITS; s++) {
      alignas(16) Sum part[4];
      *(uint4 *)part = __ldcg((const uint4 *)(mine + s * (S::BM * S::BN)) + i);
      for (int v = 0; v < 4; v++) total[v] += part[v];
    }
    int row = i / (S::BN / 4), column = i % (S::BN / 4) * 4;
    for (int v = 0; v < 4; v++) tile[row * PITCH + column + v] = total[v];
  }
  return true;
}

// finish(sums[V], row, column) stores V results of an output pixel from a channel on.
template <class S, class Input, class Finish>
DSE_DEVICE void dse_mma_gemm(const Input *input, const void *weights, typename S::Sum *partial,
                             int *counters, Finish finish) {
  DSE_SHARED_MEMORY(shared);
  constexpr int BYTES = (S::BM + S::BN) * S::BK, SLICES = S::K_PADDED / S::BK;
  int group = blockIdx.z / S::SPLITS, split = blockIdx.z % S::SPLITS;
  int m0 = blockIdx.x * S::BM, n0 = blockIdx.y * S::BN;
  int slice = split * SLICES / S::SPLITS, end = (split + 1) * SLICES / S::SPLITS;
  Loader<S, Input> loader;
  loader.start(input, (const unsigned char *)weights, group, m0, n0);
  Sums<S> sums;
  sums.clear();
#pragma unroll
  for (int s = 0; s < S::STAGES - 1; s++) {
    if (slice + s < end) loader.load(shared + s * BYTES, slice + s);
    dse_commit_copies();
  }
  for (int stage = 0; slice < end; slice++) {
    dse_wait_copies<S::STAGES - 2>();
    __syncthreads();
    int ahead = stage == 0 ? S::STAGES - 1 : stage - 1;
    if (slice + S::STAGES - 1 < end)
      loader.load(shared + ahead * BYTES, slice + S::STAGES - 1);
    dse_commit_copies();
    sums.add_slice(shared + stage * BYTES);
    stage = stage == S::STAGES - 1 ? 0 : stage + 1;
  }
  dse_wait_copies<0>();
  __syncthreads();
  typename S::Sum *tile = (typename S::Sum *)shared;
  sums.leave(tile);
  __syncthreads();
  if constexpr (S::SPLITS > 1) {
    if (!dse_join<S>(tile, partial, counters, split)) return;
    __syncthreads();
  }
  constexpr int THREADS = Loader<S, Input>::THREADS, COLUMNS = S::BN / S::V;
  for (int i = threadIdx.x; i < S::BM * COLUMNS; i += THREADS) {
    int row = i / COLUMNS, column = i % COLUMNS * S::V;
    if (m0 + row >= S::M || n0 + column >= S::N) continue;
    typename S::Sum values[S::V];
    for (int v = 0; v < S::V; v++) values[v] = tile[row * Sums<S>::PITCH + column + v];
    finish(values, m0 + row, group * S::N + n0 + column);
  }
}
