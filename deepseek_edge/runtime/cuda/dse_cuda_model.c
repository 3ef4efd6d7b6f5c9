/* dse_cuda_model.c: opens a CUDA program's model, and gives back all that it took. */
#include "dse_cuda.h"

#define TRY(model, name, symbol, ...)                                                       \
  do {                                                                                      \
    dse_status status_ =                                                                    \
        dse_cuda_check(&(model)->driver, symbol, (model)->driver.name(__VA_ARGS__), error); \
    if (status_ != DSE_OK) return status_;                                                  \
  } while (0)

static const dse_cuda_program *device_program(void) { return dse_program.device; }

/* The model, and behind it what has one element a kernel, an entry or a step. */
static cuda_model *map_model(char *error) {
  int32_t n_entries = dse_program.n_entries, n_events = 1;
  for (int32_t e = 0; e < n_entries; e++)
    if (dse_program.entries[e].n_steps >= n_events) n_events = dse_program.entries[e].n_steps + 1;
  size_t functions = sizeof(cuda_model);
  size_t graphs = functions + (size_t)device_program()->n_kernels * sizeof(cu_function);
  size_t events = graphs + (size_t)n_entries * sizeof(cu_graph_exec);
  size_t flags = events + (size_t)n_events * sizeof(cu_event);
  size_t bytes = flags + (size_t)n_entries;
  unsigned char *memory =
      mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    dse_format(error, "can't map %d KiB for the model", (int)(bytes >> 10));
    return NULL;
  }
  cuda_model *model = (cuda_model *)memory;
  model->mapped_bytes = bytes;
  model->functions = (cu_function *)(memory + functions);
  model->graphs = (cu_graph_exec *)(memory + graphs);
  model->events = (cu_event *)(memory + events);
  model->n_events = n_events;
  model->was_captured = memory + flags;
  return model;
}

static dse_status check_driver(cuda_model *model, char *error) {
  int32_t version = 0, needed = device_program()->driver_version;
  TRY(model, init, "cuInit", 0);
  TRY(model, driver_version, "cuDriverGetVersion", &version);
  if (version >= needed) return DSE_OK;
  dse_format(error, "the driver is for CUDA %d.%d; this program needs one for CUDA %d.%d",
             version / 1000, version % 1000 / 10, needed / 1000, needed % 1000 / 10);
  return DSE_ERROR_DRIVER;
}

/* Machine code runs on GPUs of its own major version whose minor one isn't lower. */
static dse_status check_gpu(cuda_model *model, char *error) {
  int32_t count = 0, major = 0, minor = 0, sm = device_program()->sm;
  TRY(model, device_count, "cuDeviceGetCount", &count);
  if (count < 1) {
    dse_format(error, "the NVIDIA driver sees no GPU");
    return DSE_ERROR_NO_DEVICE;
  }
  TRY(model, device, "cuDeviceGet", &model->device, 0);
  TRY(model, attribute, "cuDeviceGetAttribute", &major, CU_CAPABILITY_MAJOR, model->device);
  TRY(model, attribute, "cuDeviceGetAttribute", &minor, CU_CAPABILITY_MINOR, model->device);
  if (major == sm / 10 && minor >= sm % 10) return DSE_OK;
  dse_format(error, "the GPU has compute capability %d.%d; this program is for %d.%d", major,
             minor, sm / 10, sm % 10);
  return DSE_ERROR_FEATURE;
}

static uint32_t most_shared_bytes(int32_t kernel) {
  uint32_t most = 0;
  for (int32_t e = 0; e < dse_program.n_entries; e++)
    for (int32_t s = 0; s < dse_program.entries[e].n_steps; s++) {
      const dse_cuda_launch *launch = &device_program()->launches[e][s];
      if ((int32_t)launch->kernel == kernel && launch->shared_bytes > most)
        most = launch->shared_bytes;
    }
  return most;
}

static dse_status load_kernels(cuda_model *model, char *error) {
  TRY(model, load, "cuModuleLoadData", &model->module, device_program()->cubin);
  for (int32_t k = 0; k < device_program()->n_kernels; k++) {
    uint32_t shared = most_shared_bytes(k);
    TRY(model, function, "cuModuleGetFunction", &model->functions[k], model->module,
        device_program()->kernels[k]);
    if (shared)
      TRY(model, set_attribute, "cuFuncSetAttribute", model->functions[k],
          CU_MAX_DYNAMIC_SHARED_BYTES, (int32_t)shared);
  }
  return DSE_OK;
}

static dse_status allocate(cuda_model *model, char *error) {
  TRY(model, stream, "cuStreamCreate", &model->stream, 1 /* beside the default stream */);
  TRY(model, alloc, "cuMemAlloc_v2", &model->arena, dse_program.arena_bytes);
  /* Zeros, as on the CPU; counters of arrived blocks start from them. */
  TRY(model, clear, "cuMemsetD8_v2", model->arena, 0, dse_program.arena_bytes);
  TRY(model, alloc, "cuMemAlloc_v2", &model->constants, dse_program.constants_bytes);
  TRY(model, upload_now, "cuMemcpyHtoD_v2", model->constants, dse_program.constants,
      dse_program.constants_bytes);
  uint64_t host_bytes = dse_cuda_host_offset(NULL);
  TRY(model, host_alloc, "cuMemHostAlloc", (void **)&model->host, host_bytes, 0);
  memset(model->host, 0, host_bytes);
  for (int32_t i = 0; i < model->n_events; i++)
    TRY(model, event, "cuEventCreate", &model->events[i], 0);
  return DSE_OK;
}

/* Errors are of no use here: whatever one thing was, the next is to be given back too. */
static void give_back(cuda_model *model) {
  const cuda_driver *driver = &model->driver;
  if (model->context && driver->push(model->context) == CU_SUCCESS) {
    for (int32_t e = 0; e < dse_program.n_entries; e++)
      if (model->graphs[e]) driver->destroy_exec(model->graphs[e]);
    for (int32_t i = 0; i < model->n_events; i++)
      if (model->events[i]) driver->destroy_event(model->events[i]);
    if (model->host) driver->host_free(model->host);
    if (model->constants) driver->free(model->constants);
    if (model->arena) driver->free(model->arena);
    if (model->stream) driver->destroy_stream(model->stream);
    if (model->module) driver->unload(model->module);
    driver->pop(&model->context);
  }
  if (model->context) driver->release(model->device);
  dse_cuda_unload(&model->driver);
  munmap(model, model->mapped_bytes);
}

static dse_status fill_model(cuda_model *model, char *error) {
  dse_status status = dse_cuda_load(&model->driver, error);
  if (status == DSE_OK) status = check_driver(model, error);
  if (status == DSE_OK) status = check_gpu(model, error);
  if (status != DSE_OK) return status;
  TRY(model, retain, "cuDevicePrimaryCtxRetain", &model->context, model->device);
  TRY(model, push, "cuCtxPushCurrent_v2", model->context);
  status = load_kernels(model, error);
  if (status == DSE_OK) status = allocate(model, error);
  cu_context popped;
  model->driver.pop(&popped);
  return status;
}

static dse_status open_model(const dse_options *options, dse_model **out, char *error) {
  (void)options; /* threads and CPUs: one thread launches, and the GPU does the rest */
  cuda_model *model = map_model(error);
  if (!model) return DSE_ERROR_MEMORY;
  dse_status status = fill_model(model, error);
  if (status == DSE_OK) *out = &model->base;
  else give_back(model);
  return status;
}

static void close_model(dse_model *base) {
  cuda_model *model = (cuda_model *)base;
  if (base->process == getpid()) give_back(model);
  else munmap(model, model->mapped_bytes); /* the driver doesn't survive a fork */
}

static void *tensor_of(const dse_model *base, const dse_tensor_row *row) {
  return ((const cuda_model *)base)->host + dse_cuda_host_offset(row);
}

const dse_executor dse_cuda_executor = {open_model, tensor_of, dse_cuda_run, close_model};
