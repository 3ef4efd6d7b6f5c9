/* dse_cuda_run.c: one run: inputs to the GPU, one launch a step, outputs back.
 *
 * The first run launches step by step, so that an error names what failed; then the same calls are
 * captured as a graph, which later runs replay in one call. What can't be captured is launched
 * step by step for good.
 */
#include "dse_cuda.h"

#define TRY(model, name, symbol, ...)                                                           \
  do {                                                                                          \
    dse_status status_ = dse_cuda_check(                                                        \
        &(model)->driver, symbol, (model)->driver.name(__VA_ARGS__), (model)->base.error);      \
    if (status_ != DSE_OK) return status_;                                                      \
  } while (0)

uint64_t dse_cuda_host_offset(const dse_tensor_row *row) {
  uint64_t offset = 0;
  for (int32_t e = 0; e < dse_program.n_entries; e++) {
    const dse_entry_table *entry = &dse_program.entries[e];
    for (int32_t i = 0; i < entry->n_inputs + entry->n_outputs; i++) {
      const dse_tensor_row *other =
          i < entry->n_inputs ? &entry->inputs[i] : &entry->outputs[i - entry->n_inputs];
      if (other == row) return offset;
      offset += (other->size_bytes + 63) / 64 * 64 + 64; /* no two at one address */
    }
  }
  return offset;
}

static dse_status launch_step(cuda_model *model, int32_t e, int32_t s) {
  const dse_cuda_program *device = dse_program.device;
  const dse_cuda_launch *launch = &device->launches[e][s];
  const dse_entry_table *entry = &dse_program.entries[e];
  const dse_step_row *step = &entry->steps[s];
  cu_pointer pointers[DSE_MAX_KERNEL_TENSORS];
  void *parameters[DSE_MAX_KERNEL_TENSORS];
  for (int32_t i = 0; i < step->n_refs; i++) {
    const dse_ref *ref = &entry->refs[step->refs + (uint32_t)i];
    pointers[i] = ref->offset + (ref->space == DSE_ARENA ? model->arena : model->constants);
    parameters[i] = &pointers[i];
  }
  TRY(model, launch, "cuLaunchKernel", model->functions[launch->kernel], launch->grid[0],
      launch->grid[1], launch->grid[2], launch->block, 1, 1, launch->shared_bytes, model->stream,
      parameters, NULL);
  return DSE_OK;
}

/* Everything of a run, in order on the stream; with `timed` an event before and after each step. */
static dse_status enqueue(cuda_model *model, int32_t e, int timed) {
  const dse_entry_table *entry = &dse_program.entries[e];
  for (int32_t i = 0; i < entry->n_inputs; i++) {
    const dse_tensor_row *row = &entry->inputs[i];
    if (row->size_bytes)
      TRY(model, upload, "cuMemcpyHtoDAsync_v2", model->arena + row->offset,
          model->host + dse_cuda_host_offset(row), row->size_bytes, model->stream);
  }
  if (timed) TRY(model, record, "cuEventRecord", model->events[0], model->stream);
  for (int32_t s = 0; s < entry->n_steps; s++) {
    dse_status status = launch_step(model, e, s);
    if (status != DSE_OK) return status;
    if (timed) TRY(model, record, "cuEventRecord", model->events[s + 1], model->stream);
  }
  for (int32_t i = 0; i < entry->n_outputs; i++) {
    const dse_tensor_row *row = &entry->outputs[i];
    if (row->size_bytes)
      TRY(model, download, "cuMemcpyDtoHAsync_v2", model->host + dse_cuda_host_offset(row),
          model->arena + row->offset, row->size_bytes, model->stream);
  }
  return DSE_OK;
}

/* Leaves a graph in its place; without one the entry is launched step by step for good. */
static void capture(cuda_model *model, int32_t e) {
  const cuda_driver *driver = &model->driver;
  cu_graph graph = NULL;
  model->was_captured[e] = 1;
  if (driver->begin_capture(model->stream, CU_CAPTURE_THREAD_LOCAL) != CU_SUCCESS) return;
  dse_status status = enqueue(model, e, 0);
  cu_result ended = driver->end_capture(model->stream, &graph);
  if (status == DSE_OK && ended == CU_SUCCESS && graph &&
      driver->instantiate(&model->graphs[e], graph, 0) != CU_SUCCESS)
    model->graphs[e] = NULL;
  if (graph) driver->destroy_graph(graph);
  model->base.error[0] = 0; /* it isn't the run that failed */
}

static dse_status read_times(cuda_model *model, int32_t e, uint64_t *step_ns) {
  for (int32_t s = 0; s < dse_program.entries[e].n_steps; s++) {
    float ms = 0;
    TRY(model, elapsed, "cuEventElapsedTime", &ms, model->events[s], model->events[s + 1]);
    step_ns[s] = (uint64_t)((double)ms * 1e6);
  }
  return DSE_OK;
}

static dse_status run_once(cuda_model *model, int32_t e, uint64_t *step_ns) {
  if (!step_ns && model->graphs[e]) {
    TRY(model, launch_graph, "cuGraphLaunch", model->graphs[e], model->stream);
    TRY(model, wait, "cuStreamSynchronize", model->stream);
    return DSE_OK;
  }
  dse_status status = enqueue(model, e, step_ns != NULL);
  if (status != DSE_OK) return status;
  TRY(model, wait, "cuStreamSynchronize", model->stream);
  if (step_ns) return read_times(model, e, step_ns);
  if (!model->was_captured[e]) capture(model, e);
  return DSE_OK;
}

dse_status dse_cuda_run(dse_model *base, const dse_entry_table *entry, uint64_t *step_ns) {
  cuda_model *model = (cuda_model *)base;
  cu_context popped;
  TRY(model, push, "cuCtxPushCurrent_v2", model->context);
  dse_status status = run_once(model, (int32_t)(entry - dse_program.entries), step_ns);
  model->driver.pop(&popped);
  return status;
}
