// The chip under the hands of a test: commands come in on standard input, what the chip did goes out on standard output, both as little-endian
// 64-bit words. crates/npu/tests/rtl/mod.rs is the other side.
//
//   1 n words…                                    fills the instruction memory from word 0
//   2 entries in_seed out_seed limit reset n words…  runs with these words in the in stream; answers
//                                                 status cycles counters[8] taken m words…
//   3                                             hardware reset
//
// A seed of 0 is a stream that never waits. `limit` is the number of cycles after which a chip that has neither ended nor reported anything is
// given up: status is all ones then. `reset` = r > 0 resets it in cycle r - 1 (even r: soft, odd r: by rst_n), if it is still running; the
// status is that after the reset.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "Vnpu_top.h"
#include "verilated.h"

static Vnpu_top* top;

// Inputs as they are; outputs of this cycle are there afterwards.
static void settle() {
    top->clk = 0;
    top->eval();
}

static void edge() {
    top->clk = 1;
    top->eval();
}

static void cycle() {
    settle();
    edge();
}

static void quiet() {
    top->rst_n = 1;
    top->in_valid = top->out_ready = top->ctl_write = top->ctl_read = 0;
}

static void write(uint32_t address, uint64_t value) {
    top->ctl_write = 1;
    top->ctl_addr = address;
    top->ctl_wdata = value;
    cycle();
    top->ctl_write = 0;
}

static uint64_t read(uint32_t address) {
    top->ctl_read = 1;
    top->ctl_addr = address;
    cycle();
    top->ctl_read = 0;
    return top->ctl_rdata;
}

// Whether a stream goes on in a cycle: a function of both alone, the same as in Rust.
static bool flows(uint64_t seed, uint64_t now) {
    if (seed == 0) return true;
    uint64_t z = seed + now * 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    z ^= z >> 31;
    return (z & 7) >= (seed & 7);
}

static uint64_t get() {
    uint64_t word;
    if (fread(&word, sizeof word, 1, stdin) != 1) exit(0);
    return word;
}

static void put(uint64_t word) { fwrite(&word, sizeof word, 1, stdout); }

static std::vector<uint64_t> get_words() {
    std::vector<uint64_t> words(get());
    if (!words.empty() && fread(words.data(), sizeof(uint64_t), words.size(), stdin) != words.size()) exit(1);
    return words;
}

static void run() {
    uint64_t entries = get(), in_seed = get(), out_seed = get(), limit = get(), reset = get();
    std::vector<uint64_t> in = get_words(), out;
    write(2, entries);
    write(0, 1);
    // The cycles in which state is cleared.
    cycle();
    cycle();
    size_t taken = 0;
    bool given_up = false;
    for (uint64_t now = 0; !top->irq; now++) {
        if (now == limit) {
            given_up = true;
            break;
        }
        top->in_valid = taken < in.size() && flows(in_seed, now);
        top->in_data = top->in_valid ? in[taken] : 0;
        top->out_ready = flows(out_seed, now);
        if (reset != 0 && now == reset - 1) {
            if (reset % 2 == 0) {
                top->ctl_write = 1;
                top->ctl_addr = 0;
                top->ctl_wdata = 2;
            } else {
                top->rst_n = 0;
            }
            cycle();
            quiet();
            break;
        }
        settle();
        if (top->in_valid && top->in_ready) taken++;
        if (top->out_valid && top->out_ready) out.push_back(top->out_data);
        edge();
    }
    quiet();
    put(given_up ? ~0ull : read(1));
    for (uint32_t a = 3; a < 12; a++) put(read(a));
    put(taken);
    put(out.size());
    fwrite(out.data(), sizeof(uint64_t), out.size(), stdout);
    fflush(stdout);
}

int main(int argc, char** argv) {
    auto context = std::make_unique<VerilatedContext>();
    context->commandArgs(argc, argv);
    auto owner = std::make_unique<Vnpu_top>(context.get());
    top = owner.get();
    quiet();
    top->rst_n = 0;
    cycle();
    top->rst_n = 1;
    for (;;) {
        switch (get()) {
            case 1: {
                std::vector<uint64_t> words = get_words();
                for (size_t i = 0; i < words.size(); i++) write(0x80000 + i, words[i]);
                break;
            }
            case 2: run(); break;
            case 3:
                quiet();
                top->rst_n = 0;
                cycle();
                top->rst_n = 1;
                break;
            default: fprintf(stderr, "no such command\n"); return 1;
        }
    }
}
