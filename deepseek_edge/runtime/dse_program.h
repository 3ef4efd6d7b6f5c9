/* dse_program.h: the table that the compiler writes and the runtime walks.
 *
 * backends/tvm/emit.py generates one C file that defines dse_program; kernels come from an
 * object file beside it. Internal: nothing outside model.so sees these types.
 */
#ifndef DSE_PROGRAM_H
#define DSE_PROGRAM_H

#include "deepseek_edge.h"

/* A kernel computes tasks [begin, end) of its step. Its C type is
 *   void kernel(void *tensor_0, ..., void *tensor_{n-1}, int32_t begin, int32_t end)
 * so the pointer is cast by the number of tensors before the call. NULL in a program whose
 * kernels run on a device: what is launched there stands in the device's own table. */
typedef void (*dse_kernel)(void);
#define DSE_MAX_KERNEL_TENSORS 24

/* DSE_SCRATCH: memory of the thread that runs the kernel, of program.scratch_bytes; holds nothing
 * between two calls. A step names it at most once, with offset 0. */
typedef enum { DSE_ARENA = 0, DSE_CONSTANT = 1, DSE_SCRATCH = 2 } dse_space;

typedef struct {
  uint64_t offset; /* bytes from the start of the space, a multiple of 64 */
  uint32_t space;
} dse_ref;

typedef struct {
  dse_kernel kernel;
  uint32_t refs;   /* index of the first tensor in dse_entry_table.refs */
  uint16_t n_refs;
  int32_t tasks;   /* >= 1 */
  int32_t grain;   /* least number of tasks worth handing to a thread */
} dse_step_row;

typedef struct {
  const char *name;
  int32_t dtype, rank;
  int64_t shape[DSE_MAX_RANK];
  uint64_t offset, size_bytes; /* in the arena */
} dse_tensor_row;

typedef struct {
  const char *name;
  const dse_tensor_row *inputs, *outputs;
  const dse_step_row *steps;
  const dse_step_info *step_infos;
  const dse_ref *refs;
  int32_t n_inputs, n_outputs, n_steps;
} dse_entry_table;

/* dse_internal.h: on threads of this process (dse_cpu_executor), or on a GPU (dse_cuda.h). */
typedef struct dse_executor dse_executor;
extern const dse_executor dse_cpu_executor;

typedef struct {
  uint32_t abi_version;
  const char *features; /* space-separated names the CPU must have, e.g. "avx2 fma" */
  uint64_t arena_bytes; /* enough for every entry */
  const unsigned char *constants;
  uint64_t constants_bytes;
  const dse_entry_table *entries;
  int32_t n_entries;
  uint64_t scratch_bytes; /* of each thread, a multiple of 64 */
  const dse_executor *executor;
  const void *device; /* the executor's own table; NULL on the CPU */
} dse_program_table;

extern const dse_program_table dse_program;

#endif
