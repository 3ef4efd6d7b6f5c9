/* The functions of libcuda.so.1 that are called, on ordinary memory; $CUDA_STUB_FAIL is
   "FUNCTION:STATUS": that function returns that status. $CUDA_STUB_VERSION is the driver's version. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int allocated;

static int status(const char *name) {
  const char *wish = getenv("CUDA_STUB_FAIL");
  size_t length = strlen(name);
  if (wish == NULL || strncmp(wish, name, length) != 0 || wish[length] != ':') {
    return 0;
  }
  return atoi(wish + length + 1);
}

int cuInit(unsigned flags) {
  (void)flags;
  return status("cuInit");
}

int cuDriverGetVersion(int *version) {
  const char *wish = getenv("CUDA_STUB_VERSION");
  *version = wish == NULL ? 12060 : atoi(wish);
  return 0;
}

int cuDeviceGet(int *device, int ordinal) {
  *device = ordinal;
  return ordinal == 0 ? status("cuDeviceGet") : 101;
}

int cuDeviceGetName(char *name, int length, int device) {
  (void)device;
  snprintf(name, (size_t)length, "Orin");
  return 0;
}

int cuDeviceGetAttribute(int *value, int attribute, int device) {
  (void)device;
  *value = attribute == 75 ? 8 : 7;
  return 0;
}

int cuDevicePrimaryCtxRetain(void **context, int device) {
  (void)device;
  *context = &allocated;
  return 0;
}

int cuDevicePrimaryCtxRelease_v2(int device) {
  (void)device;
  return 0;
}

int cuCtxSetCurrent(void *context) {
  return context == &allocated ? 0 : 201;
}

int cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
  *free_bytes = 1000;
  *total = 2000;
  return 0;
}

int cuMemAlloc_v2(uint64_t *address, size_t size) {
  int failure = status("cuMemAlloc_v2");
  if (failure == 0) {
    *address = (uint64_t)(uintptr_t)malloc(size);
    allocated += 1;
  }
  return failure;
}

int cuMemFree_v2(uint64_t address) {
  free((void *)(uintptr_t)address);
  allocated -= 1;
  return 0;
}

int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t size, void *stream) {
  (void)stream;
  memcpy((void *)(uintptr_t)to, from, size);
  return 0;
}

int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t size, void *stream) {
  (void)stream;
  memcpy(to, (const void *)(uintptr_t)from, size);
  return 0;
}

int cuStreamCreate(void **stream, unsigned flags) {
  (void)flags;
  *stream = &allocated;
  return 0;
}

int cuStreamSynchronize(void *stream) {
  return stream == &allocated ? status("cuStreamSynchronize") : 400;
}

int cuStreamDestroy_v2(void *stream) {
  (void)stream;
  return 0;
}

int cuGetErrorName(int error, const char **name) {
  *name = error == 719 ? "CUDA_ERROR_LAUNCH_FAILED" : error == 100 ? "CUDA_ERROR_NO_DEVICE" : NULL;
  return *name == NULL ? 1 : 0;
}

/* For tests: how many allocations are left. */
int stub_allocated(void) {
  return allocated;
}
