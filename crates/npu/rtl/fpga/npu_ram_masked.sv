// The memory of one port with a mask bit for every bit, out of block RAM, which has no such mask: a write reads the word, and puts it back merged in
// the cycle after. What is read meanwhile from the same address is the merged word. To the outside it is the macro that it stands for, but
// that rdata is what was read in the cycle before, and nothing else.
module npu_ram_masked #(
    parameter int WORDS = 64,
    parameter int BITS = 64
) (
    input logic clk,
    input logic read,
    input logic write,
    input logic [$clog2(WORDS)-1:0] addr,
    input logic [BITS-1:0] wdata,
    input logic [BITS-1:0] wmask,
    output logic [BITS-1:0] rdata
);
  (* no_rw_check *)
  logic [BITS-1:0] mem[WORDS];
  // What was read; and what goes back.
  logic [BITS-1:0] word, data, mask, merged, bypass;
  logic [$clog2(WORDS)-1:0] to;
  logic pending;
  // Of the last access: its address, and what was being put back at the time.
  logic [$clog2(WORDS)-1:0] at, at_to;
  logic at_pending, same;

  assign same = at_pending && at == at_to;
  assign merged = (rdata & ~mask) | (data & mask);
  assign rdata = same ? bypass : word;

  always_ff @(posedge clk) begin
    if (pending) mem[to] <= merged;
    word <= mem[addr];
  end
  always_ff @(posedge clk) begin
    pending <= write;
    if (write) begin
      to <= addr;
      data <= wdata;
      mask <= wmask;
    end
    at <= addr;
    at_to <= to;
    at_pending <= pending;
    bypass <= merged;
  end
endmodule
