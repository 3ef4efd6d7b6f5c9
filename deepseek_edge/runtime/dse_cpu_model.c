/* dse_cpu_model.c: a model whose steps run on threads of this process. */
#include "dse_internal.h"

#define PAGE 65536 /* the largest of the kernels we meet; smaller ones divide it */

typedef struct {
  dse_model base;
  dse_pool pool;
  unsigned char *arena;
  size_t mapped_bytes;
} cpu_model;

/* Activations lie behind the model itself, and each thread's scratch memory behind those. */
static dse_status map_model(int32_t threads, cpu_model **model, char *error) {
  size_t head = (sizeof(cpu_model) + PAGE - 1) / PAGE * PAGE;
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
  return DSE_OK;
}

static dse_status open_model(const dse_options *options, dse_model **out, char *error) {
  cpu_model *model = NULL;
  dse_cpu_set cpus;
  dse_usable_cpus(&cpus);
  int32_t threads = options->threads ? options->threads : dse_count_cpus(&cpus);
  if (threads > DSE_MAX_THREADS) threads = DSE_MAX_THREADS;
  dse_status status = map_model(threads, &model, error);
  if (status != DSE_OK) return status;

  dse_pool *pool = &model->pool;
  pool->spin_ns = 1000u * (uint64_t)(options->spin_us ? options->spin_us : DSE_DEFAULT_SPIN_US);
  pool->cpus = cpus;
  pool->prefers = dse_keep_fastest("/sys/devices/system/cpu", threads, &pool->cpus);
  for (int32_t i = 1; i < pool->threads; i++)
    pool->workers[i].cpu = options->affinity ? options->affinity[i] : -1;
  status = dse_pool_start(pool, error);
  if (status == DSE_OK) *out = &model->base;
  else munmap(model, model->mapped_bytes);
  return status;
}

static void close_model(dse_model *base) {
  cpu_model *model = (cpu_model *)base;
  if (base->process == getpid()) dse_pool_stop(&model->pool);
  munmap(model, model->mapped_bytes);
}

static void *tensor_of(const dse_model *base, const dse_tensor_row *row) {
  return ((const cpu_model *)base)->arena + row->offset;
}

static void run_step(cpu_model *model, const dse_entry_table *entry, const dse_step_row *step) {
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

static dse_status run_steps(dse_model *base, const dse_entry_table *entry, uint64_t *step_ns) {
  cpu_model *model = (cpu_model *)base;
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

const dse_executor dse_cpu_executor = {open_model, tensor_of, run_steps, close_model};
