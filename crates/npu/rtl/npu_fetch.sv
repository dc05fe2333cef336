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
    output logic [1:0] space,
    output logic write,
    output logic [ADDR-1:0] addr
);
  logic last;
  assign in_ready = run && busy && !(space == 2'd0 && blocked) && !(space == 2'd1 && weights_read);
  assign write = in_valid && in_ready;
  assign done = write && last;

  npu_cursor cursor (
      .clk(clk),
      .run(run),
      .start(start),
      .instruction(instruction),
      .advance(write),
      .addr(addr),
      .last(last)
  );

  always_ff @(posedge clk) begin
    if (clear) busy <= 1'b0;
    else if (run) begin
      if (done) busy <= 1'b0;
      if (start) begin
        busy <= 1'b1;
        space <= instruction[FETCH_SPACE_LSB+:2];
      end
    end
  end
endmodule
