/*
 * Counts how often each block of a program is executed between two marks, for qemu-aarch64 (plugins, QEMU 6 to 8).
 *
 *   cc -shared -fPIC -o count.so count.c
 *   qemu-aarch64 -plugin count.so,to=FILE PROGRAM
 *
 * A block is what the emulator translates at once: instructions that are executed together. Between `hint #126` and `hint #127`
 * every execution is counted; at the second mark a line "mark" and for each block a line "ADDRESS INSTRUCTIONS EXECUTIONS" are written.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What is used of qemu-plugin.h, which packages of the emulator leave out. */
struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_info;
enum { NO_REGISTERS = 0 };
typedef void (*run_fn)(unsigned int processor, void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, void (*)(uint64_t id, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, run_fn, int flags, void *data);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *, run_fn, int flags, void *data);
__attribute__((visibility("default"))) int qemu_plugin_version = 1;

struct block {
    uint64_t address, instructions, executions;
    struct block *next;
};

static struct block *blocks;
static FILE *to;

static void executed(unsigned int processor, void *data)
{
    (void)processor;
    ((struct block *)data)->executions++;
}

static void begin(unsigned int processor, void *data)
{
    (void)processor, (void)data;
    for (struct block *b = blocks; b; b = b->next)
        b->executions = 0;
}

static void end(unsigned int processor, void *data)
{
    (void)processor, (void)data;
    fprintf(to, "mark\n");
    for (struct block *b = blocks; b; b = b->next)
        if (b->executions)
            fprintf(to, "%" PRIx64 " %" PRIu64 " %" PRIu64 "\n", b->address, b->instructions, b->executions);
    fflush(to);
}

static void translated(uint64_t id, struct qemu_plugin_tb *tb)
{
    (void)id;
    struct block *b = calloc(1, sizeof *b);
    b->address = qemu_plugin_tb_vaddr(tb);
    b->instructions = qemu_plugin_tb_n_insns(tb);
    b->next = blocks;
    blocks = b;
    qemu_plugin_register_vcpu_tb_exec_cb(tb, executed, NO_REGISTERS, b);
    for (size_t i = 0; i < b->instructions; i++) {
        struct qemu_plugin_insn *instruction = qemu_plugin_tb_get_insn(tb, i);
        uint32_t code;
        memcpy(&code, qemu_plugin_insn_data(instruction), sizeof code);
        if (code == 0xd5032fdf)
            qemu_plugin_register_vcpu_insn_exec_cb(instruction, begin, NO_REGISTERS, NULL);
        if (code == 0xd5032fff)
            qemu_plugin_register_vcpu_insn_exec_cb(instruction, end, NO_REGISTERS, NULL);
    }
}

__attribute__((visibility("default"))) int
qemu_plugin_install(uint64_t id, const struct qemu_info *info, int count, char **arguments)
{
    (void)info;
    for (int i = 0; i < count; i++)
        if (!strncmp(arguments[i], "to=", 3))
            to = fopen(arguments[i] + 3, "w");
    if (!to)
        return -1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    return 0;
}
