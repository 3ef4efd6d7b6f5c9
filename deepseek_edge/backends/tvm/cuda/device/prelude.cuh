// prelude.cuh: what every kernel of a program may use. No header of CUDA is included, so that any
// NVRTC compiles it by itself; half floats travel as their 16 bits.
//
// PTX instructions and their operand layouts: NVIDIA, Parallel Thread Execution ISA,
// https://docs.nvidia.com/cuda/parallel-thread-execution/ (read 2026-11-27).
#ifndef DSE_EMULATED

typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
#define DSE_DEVICE static __device__ __forceinline__
// As TVM writes them; their header isn't included.
#define CUDART_INF_F __int_as_float(0x7f800000)
#define CUDART_NAN_F __int_as_float(0x7fffffff)
#define CUDART_INF __longlong_as_double(0x7ff0000000000000ll)
#define CUDART_NAN __longlong_as_double(0xfff8000000000000ull)
#define DSE_SHARED_MEMORY(name) extern __shared__ __align__(128) unsigned char name[]

DSE_DEVICE float dse_float(uint16_t half) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half));
  return value;
}

DSE_DEVICE uint16_t dse_half(float value) {
  uint16_t half;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(value));
  return half;
}

// A product that is not contracted with a following addition: "mul.rn", which neither NVRTC nor the
// assembler fuses. (An empty asm in between stops only the former: seen on an H200.)
DSE_DEVICE float dse_product(float a, float b) { return __fmul_rn(a, b); }

// Four products of int8, added.
DSE_DEVICE int dse_dot4(int a, int b, int sum) {
  asm("dp4a.s32.s32 %0, %1, %2, %0;" : "+r"(sum) : "r"(a), "r"(b));
  return sum;
}

template <class T>
DSE_DEVICE T dse_shuffle(T value, int distance) {
  return __shfl_xor_sync(0xffffffffu, value, distance);
}

#if __CUDA_ARCH__ >= 800
DSE_DEVICE uint32_t dse_shared_address(const void *at) {
  return (uint32_t)__cvta_generic_to_shared(at);
}

// Copies without going through registers; done once dse_wait_copies says so.
template <int BYTES>
DSE_DEVICE void dse_copy_async(void *shared, const void *global) {
  if constexpr (BYTES == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(dse_shared_address(shared)),
                 "l"(global));
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(dse_shared_address(shared)),
                 "l"(global), "n"(BYTES));
}
DSE_DEVICE void dse_commit_copies() { asm volatile("cp.async.commit_group;"); }
template <int PENDING>
DSE_DEVICE void dse_wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING));
}

// Four 8x8 matrices of 16-bit elements; lane i gives the address of row i % 8 of matrix i / 8.
DSE_DEVICE void dse_load_matrices(uint32_t (&to)[4], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(dse_shared_address(row)));
}

// 16 x 8 sums of 16 products of half floats.
DSE_DEVICE void dse_multiply(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// 16 x 8 sums of 32 products of int8.
DSE_DEVICE void dse_multiply(int (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
#endif

#endif  // DSE_EMULATED

// The comparison that TensorIR means: NaN in the second place stays NaN.
template <class A, class B>
DSE_DEVICE auto dse_max(A a, B b) {
  return a > b ? a : b;
}
template <class A, class B>
DSE_DEVICE auto dse_min(A a, B b) {
  return a < b ? a : b;
}

struct Add {
  template <class T>
  __device__ T operator()(T a, T b) const { return a + b; }
};
struct Multiply {
  template <class T>
  __device__ T operator()(T a, T b) const { return a * b; }
};
struct Larger {  // NaN stays
  __device__ float operator()(float a, float b) const { return b == b && !(b > a) ? a : b; }
};
struct Smaller {
  __device__ float operator()(float a, float b) const { return b == b && !(b < a) ? a : b; }
};

// All threads of a team, a warp or a whole block of warps, get the result, and get the same one.
template <class Combine, class T>
DSE_DEVICE T dse_over_warp(T x) {
  for (int distance = 16; distance; distance /= 2) x = Combine()(x, dse_shuffle(x, distance));
  return x;
}
template <class Combine, class T>
DSE_DEVICE T dse_over_block(T x) {
  __shared__ T parts[32];
  x = dse_over_warp<Combine>(x);
  __syncthreads();  // the last use's parts have been read
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
  __syncthreads();
  T total = parts[0];
  for (int warp = 1; warp < (int)blockDim.x / 32; warp++) total = Combine()(total, parts[warp]);
  return total;
}
// Sums of float32 are rounded once, at the end.
#define DSE_TEAM(team, over)                                                             \
  DSE_DEVICE float dse_##team##_sum(double x) { return (float)over<Add>(x); }            \
  DSE_DEVICE float dse_##team##_product(float x) { return over<Multiply>(x); }           \
  DSE_DEVICE float dse_##team##_max(float x) { return over<Larger>(x); }                 \
  DSE_DEVICE float dse_##team##_min(float x) { return over<Smaller>(x); }
DSE_TEAM(warp, dse_over_warp)
DSE_TEAM(block, dse_over_block)

// The number that an element of memory stands for.
DSE_DEVICE float dse_value(float x) { return x; }
DSE_DEVICE float dse_value(uint16_t x) { return dse_float(x); }
DSE_DEVICE int dse_value(int8_t x) { return x; }
DSE_DEVICE int dse_value(uint8_t x) { return x; }
DSE_DEVICE int dse_value(int x) { return x; }
DSE_DEVICE int64_t dse_value(int64_t x) { return x; }

// V neighbours at once; more than one only from addresses that are a multiple of their size.
template <int V, class T, class F>
DSE_DEVICE void dse_load(T (&to)[V], const F *from) {
  if constexpr (V == 1) {
    to[0] = dse_value(*from);
  } else {
    alignas(16) F raw[V];
    constexpr int BYTES = V * (int)sizeof(F);
    if constexpr (BYTES % 16 == 0) {
#pragma unroll
      for (int i = 0; i < BYTES / 16; i++) ((uint4 *)raw)[i] = ((const uint4 *)from)[i];
    } else if constexpr (BYTES % 8 == 0) {
#pragma unroll
      for (int i = 0; i < BYTES / 8; i++) ((uint2 *)raw)[i] = ((const uint2 *)from)[i];
    } else {
#pragma unroll
      for (int i = 0; i < BYTES / 4; i++) ((uint32_t *)raw)[i] = ((const uint32_t *)from)[i];
    }
#pragma unroll
    for (int v = 0; v < V; v++) to[v] = dse_value(raw[v]);
  }
}

template <int V, class T>
DSE_DEVICE void dse_store(T *to, const T (&from)[V]) {
  if constexpr (V == 1) {
    *to = from[0];
  } else {
    alignas(16) T raw[V];
#pragma unroll
    for (int v = 0; v < V; v++) raw[v] = from[v];
    constexpr int BYTES = V * (int)sizeof(T);
    if constexpr (BYTES % 16 == 0) {
#pragma unroll
      for (int i = 0; i < BYTES / 16; i++) ((uint4 *)to)[i] = ((const uint4 *)raw)[i];
    } else if constexpr (BYTES % 8 == 0) {
#pragma unroll
      for (int i = 0; i < BYTES / 8; i++) ((uint2 *)to)[i] = ((const uint2 *)raw)[i];
    } else {
#pragma unroll
      for (int i = 0; i < BYTES / 4; i++) ((uint32_t *)to)[i] = ((const uint32_t *)raw)[i];
    }
  }
}
