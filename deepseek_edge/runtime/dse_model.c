/* dse_model.c: opens, describes and closes the one program of this library. */
#include "dse_internal.h"

static char open_error[DSE_ERROR_BYTES];

uint32_t dse_abi_version(void) { return DSE_ABI_VERSION; }

static dse_status check_options(const dse_options *options, char *error) {
  if (options->struct_size < sizeof(dse_options)) {
    dse_format(error, "dse_options.struct_size is %d, not %d", (int)options->struct_size,
               (int)sizeof(dse_options));
  } else if (options->threads < 0 || options->threads > DSE_MAX_THREADS) {
    dse_format(error, "%d threads: 0 to %d are possible", options->threads, DSE_MAX_THREADS);
  } else if (options->affinity &&
             (options->threads == 0 || options->affinity_count != options->threads)) {
    dse_format(error, "the affinity names %d CPUs for %d threads", options->affinity_count,
               options->threads);
  } else if (options->spin_us < 0) {
    dse_format(error, "spin_us is %d", options->spin_us);
  } else {
    for (int32_t i = 0; options->affinity && i < options->affinity_count; i++)
      if (options->affinity[i] < 0 || options->affinity[i] >= DSE_MAX_CPUS) {
        dse_format(error, "can't run a thread on CPU %d", options->affinity[i]);
        return DSE_ERROR_ARGUMENT;
      }
    return DSE_OK;
  }
  return DSE_ERROR_ARGUMENT;
}

dse_status dse_open(const dse_options *options, dse_model **out) {
  static const dse_options defaults = {.struct_size = sizeof(dse_options)};
  if (!out) {
    dse_format(open_error, "dse_open got no place for the model");
    return DSE_ERROR_ARGUMENT;
  }
  *out = NULL;
  if (!options) options = &defaults;
  dse_status status = check_options(options, open_error);
  if (status == DSE_OK) status = dse_check_features(dse_program.features, open_error);
  if (status == DSE_OK) status = dse_check_program(&dse_program, open_error);
  if (status == DSE_OK) status = dse_program.executor->open(options, out, open_error);
  if (status == DSE_OK) (*out)->process = getpid();
  return status;
}

void dse_close(dse_model *model) {
  if (model) dse_program.executor->close(model);
}

const char *dse_last_error(const dse_model *model) { return model ? model->error : open_error; }

int32_t dse_entries(const dse_model *model) { return model ? dse_program.n_entries : 0; }

/* The models of one library share one table, so a const model can still note an error. */
static const dse_entry_table *find_entry(const dse_model *model, int32_t entry) {
  if (!model) {
    dse_format(open_error, "no model was given");
    return NULL;
  }
  if (entry >= 0 && entry < dse_program.n_entries) return &dse_program.entries[entry];
  dse_format(((dse_model *)model)->error, "entry %d: the program has %d", entry,
             dse_program.n_entries);
  return NULL;
}

static dse_status refuse(const dse_model *model, const char *what, int32_t index, int32_t count) {
  dse_format(((dse_model *)model)->error, "%s %d: the entry has %d", what, index, count);
  return DSE_ERROR_ARGUMENT;
}

dse_status dse_entry(const dse_model *model, int32_t entry, dse_entry_info *info) {
  const dse_entry_table *table = find_entry(model, entry);
  if (!table || !info) return DSE_ERROR_ARGUMENT;
  *info = (dse_entry_info){table->name, table->n_inputs, table->n_outputs, table->n_steps};
  return DSE_OK;
}

dse_status dse_tensor(const dse_model *model, int32_t entry, dse_direction direction,
                      int32_t index, dse_tensor_info *info) {
  const dse_entry_table *table = find_entry(model, entry);
  if (!table || !info) return DSE_ERROR_ARGUMENT;
  int32_t count = direction == DSE_INPUT ? table->n_inputs : table->n_outputs;
  if ((direction != DSE_INPUT && direction != DSE_OUTPUT) || index < 0 || index >= count)
    return refuse(model, direction == DSE_INPUT ? "input" : "output", index, count);
  const dse_tensor_row *row =
      direction == DSE_INPUT ? &table->inputs[index] : &table->outputs[index];
  *info = (dse_tensor_info){.name = row->name, .dtype = row->dtype, .rank = row->rank};
  memcpy(info->shape, row->shape, sizeof info->shape);
  info->data = dse_program.executor->tensor(model, row);
  info->size_bytes = row->size_bytes;
  return DSE_OK;
}

dse_status dse_step(const dse_model *model, int32_t entry, int32_t step, dse_step_info *info) {
  const dse_entry_table *table = find_entry(model, entry);
  if (!table || !info) return DSE_ERROR_ARGUMENT;
  if (step < 0 || step >= table->n_steps) return refuse(model, "step", step, table->n_steps);
  *info = table->step_infos[step];
  return DSE_OK;
}

static dse_status run_steps(dse_model *model, const dse_entry_table *entry, uint64_t *step_ns) {
  if (model->process != getpid()) {
    dse_format(model->error, "the model was opened before a fork: open it again");
    return DSE_ERROR_THREADS;
  }
  return dse_program.executor->run(model, entry, step_ns);
}

dse_status dse_run(dse_model *model, int32_t entry) {
  const dse_entry_table *table = find_entry(model, entry);
  return table ? run_steps(model, table, NULL) : DSE_ERROR_ARGUMENT;
}

dse_status dse_run_timed(dse_model *model, int32_t entry, uint64_t *step_ns, size_t steps) {
  const dse_entry_table *table = find_entry(model, entry);
  if (!table) return DSE_ERROR_ARGUMENT;
  if (!step_ns || steps < (size_t)table->n_steps)
    return refuse(model, "timers for steps up to", (int32_t)steps, table->n_steps);
  return run_steps(model, table, step_ns);
}
