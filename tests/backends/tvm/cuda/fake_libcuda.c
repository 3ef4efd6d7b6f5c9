/* fake_libcuda.c: libcuda.so.1 for tests: memory is the host's, calls are counted, the n-th can be
 * made to fail, and kernels run if a library of emulated ones (emulated.h) was given. A captured
 * graph is a list of the calls.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define CALLS 64
#define MOST_NODES 4096

typedef struct { int kind; void *to; const void *from; size_t bytes; const void *function;
  uint32_t grid[3], block, shared; int count; void *pointers[24]; } node;
typedef struct { int n; node nodes[MOST_NODES]; } graph;
typedef struct { const char *name; void (*function)(void); int arguments; } kernel;
typedef int (*launcher)(const kernel *, const uint32_t *, uint32_t, uint32_t, void **);

static struct {
  int live, calls, fail_at, fail_code, launches, graph_launches, captures, no_capture, driver, sm;
  int pushed, max_shared_calls;
  char last[CALLS];
  graph *capturing;
  void *library;
} fake = {.driver = 13000, .sm = 90};

void fake_reset(int driver, int sm) {
  void *library = fake.library;
  memset(&fake, 0, sizeof fake);
  fake.driver = driver, fake.sm = sm, fake.library = library;
}
void fake_fail(int call, int code) { fake.calls = 0, fake.fail_at = call, fake.fail_code = code; }
void fake_refuse_capture(int refuse) { fake.no_capture = refuse; }
int fake_live(void) { return fake.live; }
int fake_calls(void) { return fake.calls; }
int fake_launches(void) { return fake.launches; }
int fake_graph_launches(void) { return fake.graph_launches; }
int fake_pushed(void) { return fake.pushed; }
const char *fake_last(void) { return fake.last; }
void fake_kernels(const char *path) {
  if (fake.library) dlclose(fake.library);
  fake.library = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
}

static int enter(const char *name) {
  strncpy(fake.last, name, CALLS - 1);
  return ++fake.calls == fake.fail_at ? fake.fail_code : 0;
}
#define ENTER do { int code_ = enter(__func__); if (code_) return code_; } while (0)

static int make(void **out, size_t bytes) {
  *out = aligned_alloc(256, (bytes + 511) / 256 * 256);
  memset(*out, 0xcd, (bytes + 511) / 256 * 256);
  fake.live++;
  return 0;
}
static int drop(void *what) {
  free(what);
  fake.live--;
  return 0;
}

/* NVRTC asks for it when a libcuda.so.1 is loaded already. */
int cuGetExportTable(const void **table, const void *id) { (void)id; *table = NULL; return 500; }
int cuInit(uint32_t flags) { ENTER; return flags ? 1 : 0; }
int cuDriverGetVersion(int32_t *v) { ENTER; *v = fake.driver; return 0; }
int cuDeviceGetCount(int32_t *n) { ENTER; *n = fake.sm ? 1 : 0; return 0; }
int cuDeviceGet(int32_t *d, int32_t i) { ENTER; *d = i; return 0; }
int cuDeviceGetAttribute(int32_t *v, int32_t what, int32_t d) {
  ENTER; (void)d; *v = what == 75 ? fake.sm / 10 : fake.sm % 10; return 0;
}
static void *retained;
int cuDevicePrimaryCtxRetain(void **c, int32_t d) {
  ENTER;
  (void)d;
  make(&retained, 1);
  *c = retained;
  return 0;
}
int cuDevicePrimaryCtxRelease_v2(int32_t d) { (void)d; enter(__func__); return drop(retained); }
int cuCtxPushCurrent_v2(void *c) {
  ENTER;
  if (c != retained) return 201;
  fake.pushed++;
  return 0;
}
int cuCtxPopCurrent_v2(void **c) { enter(__func__); *c = retained; fake.pushed--; return 0; }
int cuModuleLoadData(void **m, const void *image) {
  ENTER;
  if (memcmp(image, "\177ELF", 4)) return 200;
  return make(m, 1);
}
int cuModuleUnload(void *m) { enter(__func__); return drop(m); }
int cuModuleGetFunction(const void **f, void *m, const char *name) {
  ENTER;
  (void)m;
  if (!fake.library) { *f = name; return 0; }
  const kernel *k = dlsym(fake.library, "kernels");
  for (; k->name; k++) if (!strcmp(k->name, name)) { *f = k; return 0; }
  return 500;
}
int cuFuncSetAttribute(const void *f, int32_t a, int32_t v) { ENTER; (void)f, (void)a, (void)v; fake.max_shared_calls++; return 0; }
int cuMemAlloc_v2(void **p, size_t n) { ENTER; return make(p, n); }
int cuMemFree_v2(void *p) { enter(__func__); return drop(p); }
int cuMemHostAlloc(void **p, size_t n, uint32_t f) { ENTER; (void)f; return make(p, n); }
int cuMemFreeHost(void *p) { enter(__func__); return drop(p); }
int cuMemsetD8_v2(void *p, uint8_t v, size_t n) { ENTER; memset(p, v, n); return 0; }
int cuMemcpyHtoD_v2(void *to, const void *from, size_t n) { ENTER; memcpy(to, from, n); return 0; }

static int run(const node *n) {
  if (n->kind == 0) { memcpy(n->to, n->from, n->bytes); return 0; }
  fake.launches++;
  if (!fake.library) return 0;
  void *parameters[24], *pointers[24];
  memcpy(pointers, n->pointers, sizeof pointers);
  for (int i = 0; i < n->count; i++) parameters[i] = &pointers[i];
  launcher launch = (launcher)dlsym(fake.library, "launch");
  return launch(n->function, n->grid, n->block, n->shared, parameters) ? 1 : 0;
}
static int submit(const node *n) {
  if (!fake.capturing) return run(n);
  if (fake.capturing->n == MOST_NODES) return 900;
  fake.capturing->nodes[fake.capturing->n++] = *n;
  return 0;
}
static int copy(void *to, const void *from, size_t bytes) {
  node n = {.kind = 0, .to = to, .from = from, .bytes = bytes};
  return submit(&n);
}
int cuMemcpyHtoDAsync_v2(void *to, const void *from, size_t n, void *s) { ENTER; (void)s; return copy(to, from, n); }
int cuMemcpyDtoHAsync_v2(void *to, const void *from, size_t n, void *s) { ENTER; (void)s; return copy(to, from, n); }
int cuStreamCreate(void **s, uint32_t f) { ENTER; (void)f; return make(s, 1); }
int cuStreamDestroy_v2(void *s) { enter(__func__); return drop(s); }
int cuStreamSynchronize(void *s) { ENTER; (void)s; return 0; }
int cuEventCreate(void **e, uint32_t f) { ENTER; (void)f; return make(e, 1); }
int cuEventDestroy_v2(void *e) { enter(__func__); return drop(e); }
int cuEventRecord(void *e, void *s) { ENTER; (void)e, (void)s; return 0; }
int cuEventElapsedTime(float *ms, void *a, void *b) { ENTER; (void)a, (void)b; *ms = 0.5f; return 0; }
int cuLaunchKernel(const void *f, uint32_t x, uint32_t y, uint32_t z, uint32_t bx, uint32_t by,
                   uint32_t bz, uint32_t shared, void *s, void **parameters, void **extra) {
  ENTER;
  (void)by, (void)bz, (void)s, (void)extra;
  node n = {.kind = 1, .function = f, .grid = {x, y, z}, .block = bx, .shared = shared};
  n.count = fake.library ? ((const kernel *)f)->arguments : 0;
  for (int i = 0; i < n.count; i++) n.pointers[i] = *(void **)parameters[i];
  return submit(&n);
}
int cuStreamBeginCapture_v2(void *s, int32_t mode) {
  ENTER;
  (void)s, (void)mode;
  if (fake.no_capture) return 801;
  void *made;
  make(&made, sizeof(graph));
  fake.capturing = made;
  fake.capturing->n = 0;
  return 0;
}
int cuStreamEndCapture(void *s, void **g) { (void)s; *g = fake.capturing; fake.capturing = NULL; return enter(__func__); }
int cuGraphInstantiateWithFlags(void **e, void *g, uint64_t f) {
  ENTER;
  (void)f;
  make(e, sizeof(graph));
  memcpy(*e, g, sizeof(graph));
  fake.captures++;
  return 0;
}
int cuGraphDestroy(void *g) { enter(__func__); return drop(g); }
int cuGraphLaunch(void *e, void *s) {
  ENTER;
  (void)s;
  fake.graph_launches++;
  const graph *g = e;
  for (int i = 0; i < g->n; i++) { int code = run(&g->nodes[i]); if (code) return code; }
  return 0;
}
int cuGraphExecDestroy(void *e) { enter(__func__); return drop(e); }
int cuGetErrorString(int code, const char **text) { *text = code == 2 ? "out of memory" : "injected"; return 0; }
