/* linear_program.c: a table as the compiler writes it. y = relu(x W + b) in two steps, for
 * batches of 1 and 4 that share the weights; z is a sum over 23 tensors. The entry "tally" counts
 * how often each of its tasks was run. FEATURES is defined before.
 *
 * constants: W (256, 512) float32, b (512) float32.
 */
#include "dse_program.h"

#ifndef FEATURES
#define FEATURES ""
#endif

__asm__(
    ".pushsection .rodata,\"a\",%progbits\n.balign 16384\n.hidden constants\n"
    ".globl constants\nconstants:\n.incbin \"constants.bin\"\n.popsection\n");
extern __attribute__((visibility("hidden"))) const unsigned char constants[];

void linear_batch1(void), linear_batch4(void), relu(void), sum24(void), tally(void);

enum { IN = 256, OUT = 512, BIAS = IN * OUT * 4 };
enum { X1 = 0, H1 = 1024, Y1 = 3072, Z1 = 5120, X4 = 0, H4 = 4096, Y4 = 12288 };
enum { COUNTS = 20480, TASKS = 1000, ARENA = 24512 };

static const dse_ref refs[] = {
    {X1, DSE_ARENA}, {0, DSE_CONSTANT}, {BIAS, DSE_CONSTANT}, {H1, DSE_ARENA},
    {H1, DSE_ARENA}, {Y1, DSE_ARENA},
    {X4, DSE_ARENA}, {0, DSE_CONSTANT}, {BIAS, DSE_CONSTANT}, {H4, DSE_ARENA},
    {H4, DSE_ARENA}, {Y4, DSE_ARENA},
#define ROW(i) {64 * i, DSE_ARENA}
    ROW(0), ROW(1), ROW(2), ROW(3), ROW(4), ROW(5), ROW(6), ROW(7), ROW(8), ROW(9), ROW(10),
    ROW(11), ROW(12), ROW(13), ROW(14), ROW(15), ROW(0), ROW(1), ROW(2), ROW(3), ROW(4), ROW(5),
    ROW(6), {Z1, DSE_ARENA}, {COUNTS, DSE_ARENA},
};
static const dse_tensor_row x1[] = {{"x", DSE_FLOAT32, 2, {1, IN}, X1, IN * 4}};
static const dse_tensor_row y1[] = {{"y", DSE_FLOAT32, 2, {1, OUT}, Y1, OUT * 4},
                                    {"z", DSE_FLOAT32, 0, {0}, Z1, 4}};
static const dse_tensor_row x4[] = {{"x", DSE_FLOAT32, 2, {4, IN}, X4, 4 * IN * 4}};
static const dse_tensor_row y4[] = {{"y", DSE_FLOAT32, 2, {4, OUT}, Y4, 4 * OUT * 4}};
static const dse_step_row steps1[] = {{linear_batch1, 0, 4, OUT, 8},
                                      {relu, 4, 2, OUT, 64},
                                      {sum24, 12, 24, 1, 1}};
static const dse_step_row steps4[] = {{linear_batch4, 6, 4, 4 * OUT, 8}, {relu, 10, 2, 4 * OUT, 1}};
static const dse_tensor_row counts[] = {{"counts", DSE_INT32, 1, {TASKS}, COUNTS, 4 * TASKS}};
static const dse_step_row steps_tally[] = {{tally, 36, 1, TASKS, 1}};
static const dse_step_info infos[] = {
    {"/fc/Gemm", "Gemm"}, {"/relu/Relu", "Relu"}, {"/sum/Sum", "Sum"}};
static const dse_entry_table entries[] = {
    {"batch1", x1, y1, steps1, infos, refs, 1, 2, 3},
    {"batch4", x4, y4, steps4, infos, refs, 1, 1, 2},
    {"tally", NULL, counts, steps_tally, infos, refs, 0, 1, 1},
};

__attribute__((visibility("hidden"))) const dse_program_table dse_program = {
    DSE_ABI_VERSION, FEATURES, ARENA, constants, BIAS + OUT * 4, entries, 3, 0,
    &dse_cpu_executor, NULL};
