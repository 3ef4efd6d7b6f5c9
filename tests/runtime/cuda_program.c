/* A CUDA program written by hand, as backends/tvm/cuda/emit.py writes them: two entries, three
 * steps of two kernels. The cubin is none: the driver of these tests looks at its first bytes. */
#include "cuda/dse_cuda.h"

static const unsigned char cubin[64] = "\177ELF";
static const unsigned char weights[128] __attribute__((aligned(64))) = {1, 2, 3};

static const dse_ref refs[] = {{0, DSE_ARENA}, {64, DSE_CONSTANT}, {64, DSE_ARENA},
                               {64, DSE_ARENA}, {128, DSE_ARENA}};
static const dse_step_row steps[] = {{NULL, 0, 3, 1, 1}, {NULL, 3, 2, 1, 1}, {NULL, 3, 2, 1, 1}};
static const dse_step_info infos[] = {{"/a", "Conv"}, {"/b", "Relu"}, {"/c", "Relu"}};
static const dse_tensor_row inputs[] = {{"x", DSE_FLOAT32, 1, {4}, 0, 16}};
static const dse_tensor_row outputs[] = {{"y", DSE_FLOAT32, 1, {4}, 0, 16}};
static const dse_entry_table entries[] = {
    {"batch1", inputs, outputs, steps, infos, refs, 1, 1, 3},
    {"batch2", inputs, outputs, steps, infos, refs, 1, 1, 2},
};
static const dse_cuda_launch launches_0[] = {{0, {2, 1, 1}, 128, 65536}, {1, {1, 1, 1}, 32, 0},
                                             {1, {1, 1, 1}, 32, 0}};
static const dse_cuda_launch launches_1[] = {{0, {2, 1, 1}, 128, 1024}, {1, {1, 1, 1}, 32, 0}};
static const dse_cuda_launch *const launches[] = {launches_0, launches_1};
static const char *const kernels[] = {"k0", "k1"};
static const dse_cuda_program device = {cubin, 87, 12000, kernels, 2, launches};

const dse_program_table dse_program = {
    DSE_ABI_VERSION, "", 192, weights, sizeof weights, entries, 2, 0, &dse_cuda_executor, &device};
