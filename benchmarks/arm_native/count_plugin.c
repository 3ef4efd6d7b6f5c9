/* count_plugin.c: a plugin for QEMU's user mode that counts executed instructions.
 *
 *   qemu-aarch64 -plugin count_plugin.so,out=FILE PROGRAM
 *
 * Whenever the program calls getppid, FILE gets the line "mark COUNT ARGUMENT": how many
 * instructions have run so far, and the register x0 of the call, by which a program can tell an
 * address. At the end come "block ADDRESS INSTRUCTIONS EXECUTIONS", one line for each translated
 * block. Debian's packages have neither QEMU's own plugins nor qemu-plugin.h, so the few
 * functions are declared here, as in QEMU's documentation "TCG Plugins". */
#include <inttypes.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
enum { NO_REGISTERS = 0, GETPPID = 173 };

extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
extern uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *block);
extern void qemu_plugin_register_vcpu_tb_trans_cb(
    qemu_plugin_id_t id, void (*translated)(qemu_plugin_id_t, struct qemu_plugin_tb *));
extern void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *block,
                                                 void (*executed)(unsigned, void *), int flags,
                                                 void *data);
extern void qemu_plugin_register_vcpu_syscall_cb(
    qemu_plugin_id_t id,
    void (*called)(qemu_plugin_id_t, unsigned, int64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                   uint64_t, uint64_t, uint64_t, uint64_t));
extern void qemu_plugin_register_atexit_cb(qemu_plugin_id_t id,
                                           void (*ended)(qemu_plugin_id_t, void *), void *data);

__attribute__((visibility("default"))) int qemu_plugin_version = PLUGIN_VERSION;

typedef struct block {
  uint64_t address, instructions;
  _Atomic uint64_t executions;
  struct block *next;
} block;

static block *_Atomic blocks;
static FILE *out;

static void execute(unsigned cpu, void *data) {
  (void)cpu;
  atomic_fetch_add_explicit(&((block *)data)->executions, 1, memory_order_relaxed);
}

static void translate(qemu_plugin_id_t id, struct qemu_plugin_tb *tb) {
  (void)id;
  block *made = calloc(1, sizeof *made);
  if (!made) abort();
  made->address = qemu_plugin_tb_vaddr(tb);
  made->instructions = qemu_plugin_tb_n_insns(tb);
  made->next = atomic_load(&blocks);
  while (!atomic_compare_exchange_weak(&blocks, &made->next, made))
    ;
  qemu_plugin_register_vcpu_tb_exec_cb(tb, execute, NO_REGISTERS, made);
}

static void call(qemu_plugin_id_t id, unsigned cpu, int64_t number, uint64_t x0, uint64_t x1,
                 uint64_t x2, uint64_t x3, uint64_t x4, uint64_t x5, uint64_t x6, uint64_t x7) {
  (void)id, (void)cpu, (void)x1, (void)x2, (void)x3, (void)x4, (void)x5, (void)x6, (void)x7;
  if (number != GETPPID) return;
  uint64_t total = 0;
  for (block *one = atomic_load(&blocks); one; one = one->next)
    total += one->instructions * atomic_load_explicit(&one->executions, memory_order_relaxed);
  fprintf(out, "mark %" PRIu64 " %" PRIu64 "\n", total, x0);
}

static void end(qemu_plugin_id_t id, void *data) {
  (void)id, (void)data;
  for (block *one = atomic_load(&blocks); one; one = one->next)
    fprintf(out, "block %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", one->address, one->instructions,
            atomic_load(&one->executions));
  fclose(out);
}

__attribute__((visibility("default"))) int qemu_plugin_install(qemu_plugin_id_t id,
                                                               const void *info, int argc,
                                                               char **argv) {
  (void)info;
  if (argc != 1 || strncmp(argv[0], "out=", 4)) return 1;
  out = fopen(argv[0] + 4, "w");
  if (!out) return 1;
  qemu_plugin_register_vcpu_tb_trans_cb(id, translate);
  qemu_plugin_register_vcpu_syscall_cb(id, call);
  qemu_plugin_register_atexit_cb(id, end, NULL);
  return 0;
}
