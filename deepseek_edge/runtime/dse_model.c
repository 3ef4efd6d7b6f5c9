/* dse_model.c: opens, describes and closes the one program of this library. */
#include "dse_internal.h"

#define PAGE 65536 /* the largest of the kernels we meet; smaller ones divide it */

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

/* Activations lie behind the model itself, and each thread's scratch memory behind those. */
static dse_status map_model(int32_t threads, dse_model **model, char *error) {
  size_t head = (sizeof(dse_model) + PAGE - 1) / PAGE * PAGE;
  /* An integer kernel may read a few bytes behind a tensor, and multiplies them by 0. */
  size_t scratch = head + (dse_program.arena_bytes + 64 + 63) / 64 * 64;
  size_t bytes = scratch + (uint64_t)threads * dse_program.scratch_bytes;
  void *memory = MAP_FAILED;
  if (bytes >= head)
    memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    dse_format(error, "can't map %d MiB for activations", (int)(bytes >> 20));
    return DSE_ERROR_MEMORY;
  }
  *model = memory;
  (*model)->arena = (unsigned char *)memory + head;
  (*model)->mapped_bytes = bytes;
  (*model)->pool.threads = threads;
  (*model)->pool.scratch = (unsigned char *)memory + scratch;
  (*model)->process = getpid();
  return DSE_OK;
}

dse_status dse_open(const dse_options *options, dse_model **out) {
  static const dse_options defaults = {.struct_size = sizeof(dse_options)};
  dse_model *model = NULL;
  if (!out) {
    dse_format(open_error, "dse_open got no place for the model");
    return DSE_ERROR_ARGUMENT;
  }
  *out = NULL;
  if (!options) options = &defaults;
  dse_status status = check_options(options, open_error);
  if (status == DSE_OK) status = dse_check_features(dse_program.features, open_error);
  if (status == DSE_OK) status = dse_check_program(&dse_program, open_error);
  dse_cpu_set cpus;
  dse_usable_cpus(&cpus);
  int32_t threads = options->threads ? options->threads : dse_count_cpus(&cpus);
  if (threads > DSE_MAX_THREADS) threads = DSE_MAX_THREADS;
  if (status == DSE_OK) status = map_model(threads, &model, open_error);
  if (status != DSE_OK) return status;

  dse_pool *pool = &model->pool;
  pool->spin_ns = 1000u * (uint64_t)(options->spin_us ? options->spin_us : DSE_DEFAULT_SPIN_US);
  pool->cpus = cpus;
  pool->prefers = dse_keep_fastest("/sys/devices/system/cpu", threads, &pool->cpus);
  for (int32_t i = 1; i < pool->threads; i++)
    pool->workers[i].cpu = options->affinity ? options->affinity[i] : -1;
  status = dse_pool_start(pool, open_error);
  if (status == DSE_OK) *out = model;
  else munmap(model, model->mapped_bytes);
  return status;
}

void dse_close(dse_model *model) {
  if (!model) return;
  if (model->process == getpid()) dse_pool_stop(&model->pool);
  munmap(model, model->mapped_bytes);
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
  info->data = model->arena + row->offset;
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

static void run_step(dse_model *model, const dse_entry_table *entry, const dse_step_row *step) {
  dse_call *call = &model->pool.call;
  const dse_ref *refs = &entry->refs[step->refs];
  call->kernel = step->kernel;
  call->n_tensors = step->n_refs;
  call->scratch = -1;
  for (int32_t i = 0; i < step->n_refs; i++) {
    if (refs[i].space == DSE_SCRATCH) call->scratch = i;
    call->tensors[i] = refs[i].space == DSE_ARENA
                           ? model->arena + refs[i].offset
                           : (void *)(uintptr_t)(dse_program.constants + refs[i].offset);
  }
  dse_pool_run(&model->pool, step->tasks, step->grain);
}

static dse_status run_steps(dse_model *model, const dse_entry_table *entry, uint64_t *step_ns) {
  if (model->process != getpid()) {
    dse_format(model->error, "the model was opened before a fork: open it again");
    return DSE_ERROR_THREADS;
  }
  uint64_t before = step_ns ? dse_now_ns() : 0;
  for (int32_t i = 0; i < entry->n_steps; i++) {
    run_step(model, entry, &entry->steps[i]);
    if (!step_ns) continue;
    uint64_t after = dse_now_ns();
    step_ns[i] = after - before;
    before = after;
  }
  return DSE_OK;
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
