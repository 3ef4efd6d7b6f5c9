// emulated.h: CUDA C++ of a program, run on the CPU: enough of the language for prelude.cuh and the
// kernels behind it. The threads of a block are coroutines that change places where CUDA's wait for
// each other; blocks run one after the other.
#pragma once
#define DSE_EMULATED
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static  // blocks run one after the other
#define __launch_bounds__(n)
#define DSE_DEVICE static inline
#define DSE_SHARED_MEMORY(name) unsigned char *name = emulated::shared
#define CUDART_INF_F __builtin_inff()
#define CUDART_NAN_F __builtin_nanf("")
#define CUDART_INF __builtin_inf()
#define CUDART_NAN __builtin_nan("")

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
struct alignas(16) uint4 { uint32_t x, y, z, w; };
struct alignas(8) uint2 { uint32_t x, y; };
struct dim3 { unsigned x, y, z; };

namespace emulated {

struct Thread {
  ucontext_t context;
  char *stack;
  bool is_done;
};
struct Warp {
  int arrived;
  unsigned generation;
  alignas(16) unsigned char slots[2][32][64];
};

constexpr int MOST_THREADS = 1024, STACK = 256 << 10;
static Thread threads[MOST_THREADS];
static Warp warps[MOST_THREADS / 32];
static unsigned char *shared;
static ucontext_t scheduler;
static int current, n_threads, n_waiting, n_alive;
static unsigned block_generation;
static dim3 thread_index, block_index, block_size, grid_size;

static void pause() {
  int me = current;
  swapcontext(&threads[me].context, &scheduler);
  current = me;
  thread_index.x = (unsigned)me;
}

static void wait_for_block() {
  unsigned before = block_generation;
  if (++n_waiting == n_alive) {
    n_waiting = 0;
    block_generation++;
    return;
  }
  while (block_generation == before) pause();
}

// All lanes of a warp leave something and read what the others left.
template <class Value>
static const Value *exchange(const Value &mine) {
  static_assert(sizeof(Value) <= 64, "a slot is too small");
  Warp &warp = warps[current / 32];
  unsigned before = warp.generation;
  unsigned char(*slots)[64] = warp.slots[before % 2];
  memcpy(slots[current % 32], &mine, sizeof mine);
  if (++warp.arrived == 32) {
    warp.arrived = 0;
    warp.generation++;
  }
  while (warp.generation == before) pause();
  static Value all[MOST_THREADS / 32][32];
  for (int lane = 0; lane < 32; lane++) memcpy(&all[current / 32][lane], slots[lane], sizeof mine);
  return all[current / 32];
}

}  // namespace emulated

#define threadIdx emulated::thread_index
#define blockIdx emulated::block_index
#define blockDim emulated::block_size
#define gridDim emulated::grid_size

static inline void __syncthreads() { emulated::wait_for_block(); }
static inline void __threadfence() {}
static inline int atomicAdd(int *at, int value) {
  int before = *at;
  *at += value;
  return before;
}
static inline uint4 __ldcg(const uint4 *at) { return *at; }

static inline float dse_float(uint16_t half) {
  _Float16 value;
  memcpy(&value, &half, 2);
  return (float)value;
}
static inline uint16_t dse_half(float value) {
  _Float16 half = (_Float16)value;
  uint16_t bits;
  memcpy(&bits, &half, 2);
  return bits;
}
static inline float dse_product(float a, float b) {
  volatile float product = a * b;
  return product;
}
static inline int dse_dot4(int a, int b, int sum) {
  int8_t x[4], y[4];
  memcpy(x, &a, 4);
  memcpy(y, &b, 4);
  for (int i = 0; i < 4; i++) sum += x[i] * y[i];
  return sum;
}
template <class T>
static inline T dse_shuffle(T value, int distance) {
  return emulated::exchange(value)[emulated::current % 32 ^ distance];
}
template <int BYTES>
static inline void dse_copy_async(void *shared, const void *global) {
  if ((uintptr_t)shared % BYTES || (uintptr_t)global % BYTES) abort();  // misaligned, on a GPU
  memcpy(shared, global, BYTES);
}
static inline void dse_commit_copies() {}
template <int PENDING>
static inline void dse_wait_copies() {}

static inline void dse_load_matrices(uint32_t (&to)[4], const void *row) {
  struct Row { uint32_t words[4]; } mine;
  memcpy(&mine, row, 16);
  const Row *rows = emulated::exchange(mine);
  int lane = emulated::current % 32;
  for (int matrix = 0; matrix < 4; matrix++)
    to[matrix] = rows[matrix * 8 + lane / 4].words[lane % 4];
}

struct Fragments { uint32_t a[4], b[2]; };

// Element k of row m of the left fragment, and of column n of the right one; PTX, mma.m16n8k16 and
// mma.m16n8k32: registers 0 and 1 hold rows g and g + 8, 2 and 3 the same of the upper half of k.
template <class T, class S>
static inline void multiply_fragments(S (&sums)[4], const uint32_t (&a)[4], uint32_t b0,
                                      uint32_t b1, float (*number)(T)) {
  Fragments mine = {{a[0], a[1], a[2], a[3]}, {b0, b1}};
  const Fragments *all = emulated::exchange(mine);
  constexpr int EACH = 4 / sizeof(T);
  int lane = emulated::current % 32;
  for (int v = 0; v < 4; v++) {
    int m = lane / 4 + v / 2 * 8, n = lane % 4 * 2 + v % 2;
    for (int k = 0; k < 8 * EACH; k++) {
      int half = k / (4 * EACH), quad = k % (4 * EACH) / EACH, byte = k % EACH;
      T x, y;
      memcpy(&x, (const char *)&all[m % 8 * 4 + quad].a[half * 2 + m / 8] + byte * sizeof(T),
             sizeof(T));
      memcpy(&y, (const char *)&all[n * 4 + quad].b[half] + byte * sizeof(T), sizeof(T));
      sums[v] += (S)(number(x) * number(y));
    }
  }
}
static inline float of_half(uint16_t x) { return dse_float(x); }
static inline float of_int8(int8_t x) { return x; }
static inline void dse_multiply(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0,
                                uint32_t b1) {
  multiply_fragments<uint16_t>(sums, a, b0, b1, of_half);
}
static inline void dse_multiply(int (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  multiply_fragments<int8_t>(sums, a, b0, b1, of_int8);
}

namespace emulated {

struct Kernel {
  const char *name;
  void (*function)();
  int arguments;
};
static const Kernel *running;
static void **parameters;

template <int N, class... Taken>
static void call(Taken... taken) {
  if constexpr (sizeof...(Taken) == N)
    ((void (*)(Taken...))running->function)(taken...);
  else
    call<N>(taken..., *(void **)parameters[sizeof...(Taken)]);
}

static void run_thread() {
  thread_index = {(unsigned)current, 0, 0};
  switch (running->arguments) {
#define CASE(n) case n: call<n>(); break;
    CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11)
    CASE(12) CASE(13) CASE(14) CASE(15) CASE(16) CASE(17) CASE(18) CASE(19) CASE(20) CASE(21)
    CASE(22) CASE(23) CASE(24)
#undef CASE
  }
  threads[current].is_done = true;
  n_alive--;
  if (n_waiting && n_waiting == n_alive) {
    n_waiting = 0;
    block_generation++;
  }
  setcontext(&scheduler);
}

static void run_block() {
  n_alive = n_threads;
  n_waiting = 0;
  for (int w = 0; w < (n_threads + 31) / 32; w++) warps[w].arrived = 0;
  for (int t = 0; t < n_threads; t++) {
    Thread &thread = threads[t];
    thread.is_done = false;
    if (!thread.stack) thread.stack = (char *)malloc(STACK);
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack;
    thread.context.uc_stack.ss_size = STACK;
    thread.context.uc_link = nullptr;
    makecontext(&thread.context, run_thread, 0);
  }
  while (n_alive)
    for (int t = 0; t < n_threads; t++)
      if (!threads[t].is_done) {
        current = t;
        swapcontext(&scheduler, &threads[t].context);
      }
}

static int launch(const Kernel *kernel, dim3 grid, unsigned block, unsigned shared_bytes,
                  void **arguments) {
  if (block > MOST_THREADS || block % 32) return 1;
  running = kernel;
  parameters = arguments;
  grid_size = grid;
  block_size = {block, 1, 1};
  n_threads = (int)block;
  shared = (unsigned char *)aligned_alloc(128, (shared_bytes + 255) / 128 * 128);
  for (unsigned z = 0; z < grid.z; z++)
    for (unsigned y = 0; y < grid.y; y++)
      for (unsigned x = 0; x < grid.x; x++) {
        block_index = {x, y, z};
        memset(shared, 0xee, (shared_bytes + 255) / 128 * 128);  // nobody relies on zeros
        run_block();
      }
  free(shared);
  return 0;
}

}  // namespace emulated
