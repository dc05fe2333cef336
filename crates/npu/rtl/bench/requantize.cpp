// The requantizer by itself: records of six 32-bit words (acc, scale, zero, lo, hi, expected y) come in on standard input; the first that the
// RTL computes differently is printed, else how many there were.
#include <cstdint>
#include <cstdio>
#include <vector>

#include "Vnpu_requantize.h"
#include "verilated.h"

int main() {
    const int latency = 6;
    Vnpu_requantize unit;
    struct Record { int32_t v[6]; };
    std::vector<Record> pipe(latency + 1);
    uint64_t count = 0;
    auto cycle = [&](const Record* in, const Record& out) {
        unit.acc = in ? in->v[0] : 0;
        unit.scale = in ? in->v[1] : 0x3f800000;
        unit.zero = out.v[2] & 511;
        unit.lo = out.v[3] & 511;
        unit.hi = out.v[4] & 511;
        unit.clk = 0;
        unit.eval();
        int y = int(unit.y) << 23 >> 23;
        unit.clk = 1;
        unit.eval();
        return y;
    };
    std::vector<Record> block(1 << 14);
    uint64_t fed = 0;
    size_t got;
    bool more = true;
    auto step = [&](const Record* in) {
        Record record = in ? *in : Record{};
        pipe.insert(pipe.begin(), record);
        pipe.pop_back();
        int y = cycle(in, pipe.back());
        if (fed++ >= uint64_t(latency)) {
            const Record& r = pipe.back();
            if (y != r.v[5]) {
                printf("acc %d scale %08x zero %d lo %d hi %d: RTL %d, expected %d\n", r.v[0], uint32_t(r.v[1]), r.v[2], r.v[3], r.v[4], y, r.v[5]);
                return false;
            }
            count++;
        }
        return true;
    };
    while (more) {
        got = fread(block.data(), sizeof(Record), block.size(), stdin);
        more = got == block.size();
        for (size_t i = 0; i < got; i++)
            if (!step(&block[i])) return 1;
    }
    for (int i = 0; i < latency; i++)
        if (!step(nullptr)) return 1;
    printf("%llu equal\n", (unsigned long long)count);
    return 0;
}
