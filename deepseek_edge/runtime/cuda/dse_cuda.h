/* dse_cuda.h: CUDA programs, launched through the driver's own interface.
 *
 * Nothing of CUDA is needed to build or to load a program: libcuda.so.1 is opened when a model is,
 * and the few types and functions used are declared here. They are those of the driver API
 * reference, https://docs.nvidia.com/cuda/cuda-driver-api/ (read 2026-11-27); the names end in _v2
 * where cuda.h maps the plain name to that.
 */
#ifndef DSE_CUDA_H
#define DSE_CUDA_H

#include "dse_internal.h"

typedef int32_t cu_result; /* CUresult */
typedef int32_t cu_device;
typedef struct cu_context *cu_context;
typedef struct cu_module *cu_module;
typedef struct cu_function *cu_function;
typedef struct cu_stream *cu_stream;
typedef struct cu_event *cu_event;
typedef struct cu_graph *cu_graph;
typedef struct cu_graph_exec *cu_graph_exec;
typedef uint64_t cu_pointer; /* CUdeviceptr */

#define CU_SUCCESS 0
#define CU_ERROR_OUT_OF_MEMORY 2
#define CU_ERROR_NO_DEVICE 100
#define CU_ERROR_INVALID_IMAGE 200
#define CU_ERROR_NO_BINARY_FOR_GPU 209
#define CU_ERROR_ILLEGAL_ADDRESS 700
#define CU_CAPABILITY_MAJOR 75
#define CU_CAPABILITY_MINOR 76
#define CU_MAX_DYNAMIC_SHARED_BYTES 8
#define CU_CAPTURE_THREAD_LOCAL 1

/* One row a function: name in cuda_driver, symbol in libcuda, parameters. */
#define DSE_CUDA_FUNCTIONS(F)                                                                  \
  F(init, "cuInit", (uint32_t))                                                                \
  F(driver_version, "cuDriverGetVersion", (int32_t *))                                         \
  F(device_count, "cuDeviceGetCount", (int32_t *))                                             \
  F(device, "cuDeviceGet", (cu_device *, int32_t))                                             \
  F(attribute, "cuDeviceGetAttribute", (int32_t *, int32_t, cu_device))                        \
  F(retain, "cuDevicePrimaryCtxRetain", (cu_context *, cu_device))                             \
  F(release, "cuDevicePrimaryCtxRelease_v2", (cu_device))                                      \
  F(push, "cuCtxPushCurrent_v2", (cu_context))                                                 \
  F(pop, "cuCtxPopCurrent_v2", (cu_context *))                                                 \
  F(load, "cuModuleLoadData", (cu_module *, const void *))                                     \
  F(unload, "cuModuleUnload", (cu_module))                                                     \
  F(function, "cuModuleGetFunction", (cu_function *, cu_module, const char *))                 \
  F(set_attribute, "cuFuncSetAttribute", (cu_function, int32_t, int32_t))                      \
  F(alloc, "cuMemAlloc_v2", (cu_pointer *, size_t))                                            \
  F(free, "cuMemFree_v2", (cu_pointer))                                                        \
  F(host_alloc, "cuMemHostAlloc", (void **, size_t, uint32_t))                                 \
  F(host_free, "cuMemFreeHost", (void *))                                                      \
  F(clear, "cuMemsetD8_v2", (cu_pointer, uint8_t, size_t))                                     \
  F(upload_now, "cuMemcpyHtoD_v2", (cu_pointer, const void *, size_t))                         \
  F(upload, "cuMemcpyHtoDAsync_v2", (cu_pointer, const void *, size_t, cu_stream))             \
  F(download, "cuMemcpyDtoHAsync_v2", (void *, cu_pointer, size_t, cu_stream))                 \
  F(stream, "cuStreamCreate", (cu_stream *, uint32_t))                                         \
  F(destroy_stream, "cuStreamDestroy_v2", (cu_stream))                                         \
  F(wait, "cuStreamSynchronize", (cu_stream))                                                  \
  F(event, "cuEventCreate", (cu_event *, uint32_t))                                            \
  F(destroy_event, "cuEventDestroy_v2", (cu_event))                                            \
  F(record, "cuEventRecord", (cu_event, cu_stream))                                            \
  F(elapsed, "cuEventElapsedTime", (float *, cu_event, cu_event))                              \
  F(launch, "cuLaunchKernel",                                                                  \
    (cu_function, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t,        \
     cu_stream, void **, void **))                                                             \
  F(begin_capture, "cuStreamBeginCapture_v2", (cu_stream, int32_t))                            \
  F(end_capture, "cuStreamEndCapture", (cu_stream, cu_graph *))                                \
  F(instantiate, "cuGraphInstantiateWithFlags", (cu_graph_exec *, cu_graph, uint64_t))         \
  F(destroy_graph, "cuGraphDestroy", (cu_graph))                                               \
  F(launch_graph, "cuGraphLaunch", (cu_graph_exec, cu_stream))                                 \
  F(destroy_exec, "cuGraphExecDestroy", (cu_graph_exec))                                       \
  F(error_text, "cuGetErrorString", (cu_result, const char **))

#define DSE_CUDA_MEMBER(name, symbol, parameters) cu_result(*name) parameters;
typedef struct {
  void *library;
  DSE_CUDA_FUNCTIONS(DSE_CUDA_MEMBER)
} cuda_driver;

/* What cuda/emit.py writes: one launch a step. */
typedef struct {
  uint32_t kernel; /* index into dse_cuda_program.kernels */
  uint32_t grid[3];
  uint32_t block;
  uint32_t shared_bytes;
} dse_cuda_launch;

typedef struct {
  const unsigned char *cubin;
  int32_t sm;             /* what the cubin is for: 87 is 8.7 */
  int32_t driver_version; /* the oldest that loads it, as cuDriverGetVersion counts: 12000 */
  const char *const *kernels;
  int32_t n_kernels;
  const dse_cuda_launch *const *launches; /* by entry */
} dse_cuda_program;

typedef struct {
  dse_model base;
  cuda_driver driver;
  size_t mapped_bytes;
  cu_device device;
  cu_context context; /* NULL until the primary context is retained */
  cu_module module;
  cu_stream stream;
  cu_pointer arena, constants;
  unsigned char *host; /* pinned: inputs and outputs of all entries, one after the other */
  cu_event *events;    /* one more than the longest entry has steps */
  int32_t n_events;
  cu_graph_exec *graphs;     /* by entry; NULL while there is none */
  unsigned char *was_captured; /* by entry: it was tried, with a graph or without */
  cu_function *functions;    /* by kernel */
} cuda_model;

extern const dse_executor dse_cuda_executor;

/* dse_cuda_driver.c */
dse_status dse_cuda_load(cuda_driver *driver, char *error);
void dse_cuda_unload(cuda_driver *driver);
/* DSE_OK, or the status of a failure and its text: "cuMemAlloc_v2: out of memory". */
dse_status dse_cuda_check(const cuda_driver *driver, const char *function, cu_result result,
                          char *error);

/* dse_cuda_run.c */
dse_status dse_cuda_run(dse_model *model, const dse_entry_table *entry, uint64_t *step_ns);
/* Where a tensor of the table lies in the pinned memory; the size of all for NULL. */
uint64_t dse_cuda_host_offset(const dse_tensor_row *row);

#endif
