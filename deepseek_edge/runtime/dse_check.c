/* dse_check.c: is the table one that this runtime can walk?
 *
 * The compiler wrote it, so an error here is the compiler's; found once at open, it is a
 * message instead of a wild pointer at the first run.
 */
#include "dse_internal.h"

static const uint8_t element_bytes[] = {0, 4, 1, 1, 4, 8, 1, 2}; /* by dse_dtype */

static int is_tensor(const dse_tensor_row *row, uint64_t arena_bytes) {
  if (!row->name || row->rank < 0 || row->rank > DSE_MAX_RANK) return 0;
  if (row->dtype < DSE_FLOAT32 || row->dtype > DSE_FLOAT16) return 0;
  uint64_t bytes = element_bytes[row->dtype];
  for (int32_t axis = 0; axis < row->rank; axis++)
    if (row->shape[axis] < 0 || __builtin_mul_overflow(bytes, (uint64_t)row->shape[axis], &bytes))
      return 0;
  return bytes == row->size_bytes && row->offset % 64 == 0 && row->offset <= arena_bytes &&
         bytes <= arena_bytes - row->offset;
}

static uint64_t bytes_of(const dse_program_table *program, uint32_t space) {
  return space == DSE_ARENA      ? program->arena_bytes
         : space == DSE_CONSTANT ? program->constants_bytes
                                 : 0;
}

static int is_step(const dse_program_table *program, const dse_entry_table *entry,
                   const dse_step_row *step) {
  if (!step->kernel != !!program->device || step->n_refs < 1 || step->n_refs > DSE_MAX_KERNEL_TENSORS) return 0;
  if (step->tasks < 1 || step->grain < 1) return 0;
  int32_t scratch = 0;
  for (uint32_t i = 0; i < step->n_refs; i++) {
    const dse_ref *ref = &entry->refs[step->refs + i];
    if (ref->space > DSE_SCRATCH || ref->offset % 64) return 0;
    if (ref->offset > bytes_of(program, ref->space)) return 0;
    scratch += ref->space == DSE_SCRATCH;
  }
  return scratch <= 1 && (!scratch || program->scratch_bytes);
}

dse_status dse_check_program(const dse_program_table *program, char *error) {
  if (program->abi_version != DSE_ABI_VERSION || program->n_entries < 1 || !program->executor ||
      (uintptr_t)program->constants % 64 || program->scratch_bytes % 64) {
    dse_format(error, "the program table is not of version %d", (int)DSE_ABI_VERSION);
    return DSE_ERROR_INTERNAL;
  }
  for (int32_t e = 0; e < program->n_entries; e++) {
    const dse_entry_table *entry = &program->entries[e];
    for (int32_t i = 0; i < entry->n_inputs + entry->n_outputs; i++) {
      const dse_tensor_row *row =
          i < entry->n_inputs ? &entry->inputs[i] : &entry->outputs[i - entry->n_inputs];
      if (is_tensor(row, program->arena_bytes)) continue;
      dse_format(error, "entry %d of the program table has a bad tensor %d", e, i);
      return DSE_ERROR_INTERNAL;
    }
    for (int32_t s = 0; s < entry->n_steps; s++) {
      if (is_step(program, entry, &entry->steps[s])) continue;
      dse_format(error, "entry %d of the program table has a bad step %d", e, s);
      return DSE_ERROR_INTERNAL;
    }
  }
  return DSE_OK;
}
