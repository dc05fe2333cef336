// The in stream into one of four memories. Section 6.4 of the specification.
module npu_fetch
  import npu_pkg::*;
  import npu_types::*;
(
    input logic clk,
    input logic clear,
    input logic run,
    input logic start,
    input logic [255:0] instruction,
    output logic busy,
    output logic done,
    input logic in_valid,
    output logic in_ready,
    // Ports that are in use: the bank of this word, and the weight memory.
    input logic blocked,
    input logic weights_read,
    // Bit n: memory n is written, each waiting for its own port alone; and whether there is a word for activations, written or not.
    output logic [3:0] writes,
    output logic activations,
    output logic [ADDR-1:0] addr,
    output logic beyond
);
  logic reset;
  npu_copies own_reset (.clk(clk), .reset(1'b0), .next(clear), .copies(reset));
  logic last, write;
  // One of the memories, while there is an instruction.
  logic [3:0] into, ready;
  assign ready = into & {2'b11, !weights_read, !blocked} & {4{run}};
  assign writes = {4{in_valid}} & ready;
  assign activations = in_valid && into[0];
  assign in_ready = ready != '0;
  assign write = in_valid && in_ready;
  assign done = write && last;
  assign busy = into != '0;

  npu_cursor cursor (
      .clk(clk),
      .start(start),
      .instruction(instruction),
      .advance(write),
      .addr(addr),
      .beyond(beyond),
      .last(last)
  );

  always_ff @(posedge clk) begin
    if (reset) into <= '0;
    else begin
      if (done) into <= '0;
      if (start) into <= 4'd1 << instruction[FETCH_SPACE_LSB+:2];
    end
  end
endmodule
