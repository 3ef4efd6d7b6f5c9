/* deepseek_edge.h: the C interface of a compiled model (model.so).
 *
 *   dse_model *model;
 *   dse_options options = {.struct_size = sizeof options, .threads = 2};
 *   if (dse_open(&options, &model) != DSE_OK) fail(dse_last_error(NULL));
 *   dse_tensor_info in, out;
 *   dse_tensor(model, 0, DSE_INPUT, 0, &in);
 *   dse_tensor(model, 0, DSE_OUTPUT, 0, &out);
 *   memcpy(in.data, image, in.size_bytes);
 *   if (dse_run(model, 0) != DSE_OK) fail(dse_last_error(model));
 *   use(out.data);
 *   dse_close(model);
 *
 * One model serves one thread at a time; open it twice for two. Nothing is allocated after
 * dse_open. No function aborts, prints, or changes the process's state. Inputs keep their
 * contents across dse_run, so that a run can be repeated. A child process made by fork can only
 * close a model, not run it: threads don't survive a fork.
 */
#ifndef DEEPSEEK_EDGE_H
#define DEEPSEEK_EDGE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define DSE_ABI_VERSION 1u
#define DSE_MAX_RANK 8

#if defined(DSE_BUILDING)
#define DSE_API __attribute__((visibility("default")))
#else
#define DSE_API
#endif

typedef struct dse_model dse_model;

typedef enum {
  DSE_OK = 0,
  DSE_ERROR_ARGUMENT = 1, /* a null pointer, an index out of range, a bad option */
  DSE_ERROR_FEATURE = 2,  /* this CPU or GPU lacks what the kernels use */
  DSE_ERROR_MEMORY = 3,
  DSE_ERROR_THREADS = 4,
  DSE_ERROR_INTERNAL = 5,
  DSE_ERROR_NO_DEVICE = 6, /* no GPU, or no driver for it */
  DSE_ERROR_DRIVER = 7,    /* the driver is too old for the kernels, or refused something else */
  DSE_ERROR_DEVICE_LOST = 8 /* the GPU failed while it ran: close the model */
} dse_status;

typedef enum {
  DSE_FLOAT32 = 1,
  DSE_INT8 = 2,
  DSE_UINT8 = 3,
  DSE_INT32 = 4,
  DSE_INT64 = 5,
  DSE_BOOL = 6,
  DSE_FLOAT16 = 7
} dse_dtype;

typedef enum { DSE_INPUT = 0, DSE_OUTPUT = 1 } dse_direction;

typedef struct {
  uint32_t struct_size;     /* sizeof(dse_options): later fields may follow */
  int32_t threads;          /* 0: as many as this process may use */
  const int32_t *affinity;  /* CPU numbers, one a thread; the first stands for the calling thread,
                               which is left where it is. NULL leaves it to the kernel, but away
                               from slower kinds of cores where the faster ones are enough */
  int32_t affinity_count;
  int32_t spin_us;          /* how long an idle thread spins before it sleeps; 0: the default */
} dse_options;

typedef struct {
  const char *name;
  int32_t dtype;
  int32_t rank;
  int64_t shape[DSE_MAX_RANK];
  void *data;               /* 64-byte aligned, valid until dse_close */
  uint64_t size_bytes;
} dse_tensor_info;

typedef struct {
  const char *name;         /* "batch1" */
  int32_t inputs, outputs, steps;
} dse_entry_info;

typedef struct {
  const char *name, *op;    /* source node and fused operators of one step */
} dse_step_info;

DSE_API uint32_t dse_abi_version(void);

/* Checks the CPU, maps the arena, starts threads. On failure *model is NULL and
 * dse_last_error(NULL) says why (per process, until the next failing dse_open). */
DSE_API dse_status dse_open(const dse_options *options, dse_model **model);

DSE_API int32_t dse_entries(const dse_model *model);
DSE_API dse_status dse_entry(const dse_model *model, int32_t entry, dse_entry_info *info);
DSE_API dse_status dse_tensor(const dse_model *model, int32_t entry, dse_direction direction,
                              int32_t index, dse_tensor_info *info);
DSE_API dse_status dse_step(const dse_model *model, int32_t entry, int32_t step,
                            dse_step_info *info);

DSE_API dse_status dse_run(dse_model *model, int32_t entry);

/* As dse_run, and writes each step's duration to step_ns[0 .. steps). */
DSE_API dse_status dse_run_timed(dse_model *model, int32_t entry, uint64_t *step_ns,
                                 size_t steps);

/* Never NULL; valid until the next call on the same model. */
DSE_API const char *dse_last_error(const dse_model *model);

DSE_API void dse_close(dse_model *model);

#ifdef __cplusplus
}
#endif
#endif
