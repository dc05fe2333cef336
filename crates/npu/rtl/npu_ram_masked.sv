// One port, a mask bit for every bit: a macro of the activation memory.
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
  logic [BITS-1:0] mem[WORDS];

  always_ff @(posedge clk) begin
    if (write) mem[addr] <= (mem[addr] & ~wmask) | (wdata & wmask);
    else if (read) rdata <= mem[addr];
  end
endmodule
