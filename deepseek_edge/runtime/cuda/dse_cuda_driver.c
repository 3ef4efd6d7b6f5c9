/* dse_cuda_driver.c: opens the NVIDIA driver's library, and says what its errors mean. */
#include "dse_cuda.h"

#include <dlfcn.h>

void dse_cuda_unload(cuda_driver *driver) {
  if (driver->library) dlclose(driver->library);
  driver->library = NULL;
}

/* dlsym returns an object pointer, which C doesn't convert to a function's; POSIX makes them
 * equal in size. */
#define FIND(name, symbol, parameters)                                              \
  found = dlsym(driver->library, symbol);                                           \
  if (!found) {                                                                     \
    dse_format(error, "the NVIDIA driver has no %s: a newer one is needed", symbol); \
    dse_cuda_unload(driver);                                                        \
    return DSE_ERROR_DRIVER;                                                        \
  }                                                                                 \
  memcpy(&driver->name, &found, sizeof found);

dse_status dse_cuda_load(cuda_driver *driver, char *error) {
  void *found;
  driver->library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!driver->library) {
    dse_format(error, "no NVIDIA driver here: libcuda.so.1 can't be loaded");
    return DSE_ERROR_NO_DEVICE;
  }
  DSE_CUDA_FUNCTIONS(FIND)
  return DSE_OK;
}

/* After these the context is unusable: "the process must be terminated and relaunched" or the GPU
 * is gone (CUresult in the driver API reference). */
static int is_lost(cu_result result) {
  return result == 46 || result == 214 || (result >= 700 && result <= 702) ||
         (result >= 714 && result <= 719);
}

dse_status dse_cuda_check(const cuda_driver *driver, const char *function, cu_result result,
                          char *error) {
  if (result == CU_SUCCESS) return DSE_OK;
  const char *text = NULL;
  if (driver->error_text(result, &text) != CU_SUCCESS || !text) text = "unknown error";
  dse_format(error, "%s: %s (error %d)", function, text, result);
  if (result == CU_ERROR_OUT_OF_MEMORY) return DSE_ERROR_MEMORY;
  if (result == CU_ERROR_NO_DEVICE) return DSE_ERROR_NO_DEVICE;
  if (result == CU_ERROR_NO_BINARY_FOR_GPU) return DSE_ERROR_FEATURE;
  return is_lost(result) ? DSE_ERROR_DEVICE_LOST : DSE_ERROR_DRIVER;
}
