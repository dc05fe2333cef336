// Memories out of block RAM, which read in every cycle: whether what they read is wanted is known late, and nobody looks at it later than in the next
// cycle.

// One read port and one write port.
module npu_ram #(
    parameter int WORDS = 64,
    parameter int BITS = 64
) (
    input logic clk,
    input logic read,
    input logic [$clog2(WORDS)-1:0] raddr,
    output logic [BITS-1:0] rdata,
    input logic write,
    input logic [$clog2(WORDS)-1:0] waddr,
    input logic [BITS-1:0] wdata
);
  // In an FPGA, what would leave most of a block RAM empty is made of LUTs.
  (* ram_style = WORDS <= 64 ? "distributed" : "auto" *)
  logic [BITS-1:0] mem[WORDS];

  always_ff @(posedge clk) begin
    if (write) mem[waddr] <= wdata;
    rdata <= mem[raddr];
  end
endmodule

// One port.
module npu_ram_single #(
    parameter int WORDS = 64,
    parameter int BITS = 64
) (
    input logic clk,
    input logic read,
    input logic write,
    input logic [$clog2(WORDS)-1:0] addr,
    output logic [BITS-1:0] rdata,
    input logic [BITS-1:0] wdata
);
  logic [BITS-1:0] mem[WORDS];

  always_ff @(posedge clk) begin
    if (write) mem[addr] <= wdata;
    else rdata <= mem[addr];
  end
endmodule
