// The masked memory and its form for FPGAs, side by side: what is read is the same, whatever was written before. `suite/npu/run` proves it by
// induction; `npu_ram_masked_fpga` is what it calls the form for FPGAs.
module ram (
    input logic clk,
    input logic read,
    input logic write,
    input logic [1:0] addr,
    input logic [1:0] wdata,
    input logic [1:0] wmask
);
  logic [1:0] a, b;
  logic was_read;
  npu_ram_masked #(.WORDS(4), .BITS(2)) macro (.clk, .read(read && !write), .write, .addr, .wdata, .wmask, .rdata(a));
  npu_ram_masked_fpga #(.WORDS(4), .BITS(2)) fpga (.clk, .read(read && !write), .write, .addr, .wdata, .wmask, .rdata(b));
  always_ff @(posedge clk) was_read <= read && !write;
  always_comb begin
    if (was_read) assert (a == b);
    // What holds in every state: the macro has what the other has, or is about to put back.
    for (int k = 0; k < 4; k++) assert (macro.mem[k] == (fpga.pending && fpga.to == 2'(k) ? fpga.merged : fpga.mem[k]));
  end
endmodule
