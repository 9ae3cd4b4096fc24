// A QEMU plugin (API version 1) that counts executed instructions and prints the number when the program ends. With
// `trace=FILE` it also writes the address of each, 64 bits in the order of execution. The declarations stand here
// because Debian's packages of QEMU 7.2 bring no header.
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct qemu_plugin_tb;
struct qemu_plugin_insn;
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, void (*callback)(uint64_t, struct qemu_plugin_tb*));
void qemu_plugin_register_atexit_cb(uint64_t id, void (*callback)(uint64_t, void*), void* data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb* block);
struct qemu_plugin_insn* qemu_plugin_tb_get_insn(const struct qemu_plugin_tb* block, size_t index);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn* instruction);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb* block, void (*callback)(unsigned, void*), int flags,
                                          void* data);
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb* block, int operation, void* counter, uint64_t add);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

static uint64_t executed;
static FILE* trace;

// The number of a block's instructions, then their addresses.
static void on_block(unsigned cpu, void* data) {
  (void)cpu;
  const uint64_t* block = data;
  fwrite(block + 1, sizeof *block, block[0], trace);
}

static void on_translation(uint64_t id, struct qemu_plugin_tb* block) {
  (void)id;
  const size_t count = qemu_plugin_tb_n_insns(block);
  qemu_plugin_register_vcpu_tb_exec_inline(block, 0 /* add */, &executed, count);
  if (!trace) return;
  uint64_t* addresses = malloc((count + 1) * sizeof *addresses);
  addresses[0] = count;
  for (size_t i = 0; i < count; ++i) addresses[i + 1] = qemu_plugin_insn_vaddr(qemu_plugin_tb_get_insn(block, i));
  qemu_plugin_register_vcpu_tb_exec_cb(block, on_block, 0 /* reads no registers */, addresses);
}

static void on_end(uint64_t id, void* data) {
  (void)id;
  (void)data;
  if (trace) fclose(trace);
  fprintf(stderr, "executed %llu\n", (unsigned long long)executed);
}

__attribute__((visibility("default"))) int qemu_plugin_install(uint64_t id, const void* info, int count,
                                                               char** values) {
  (void)info;
  for (int i = 0; i < count; ++i) {
    if (strncmp(values[i], "trace=", 6) == 0) trace = fopen(values[i] + 6, "wb");
  }
  qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
  qemu_plugin_register_atexit_cb(id, on_end, NULL);
  return 0;
}
