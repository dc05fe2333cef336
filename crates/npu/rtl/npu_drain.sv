// The activation memory into the out stream. Section 6.9 of the specification.
module npu_drain
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
    // Read port.
    output logic req_valid,
    output logic [ADDR-1:0] req_addr,
    input logic served,
    input logic [63:0] data,
    output logic out_valid,
    input logic out_ready,
    output logic [63:0] out_data
);
  logic reset;
  npu_copies own_reset (.clk(clk), .reset(1'b0), .next(clear), .copies(reset));
  localparam int PLACE = $clog2(DRAIN_WORDS);
  localparam int COUNT = $clog2(DRAIN_WORDS + 1);
  logic starting, reading, last;
  logic [63:0] buffer[DRAIN_WORDS];
  logic [DRAIN_WORDS-1:0] buffer_last;
  logic [PLACE-1:0] put, get;
  // Words in the buffer, and those with them that have been read but are not there yet.
  logic [COUNT-1:0] held, owed;
  logic arrives, arrives_last, leaves;
  assign req_valid = reading && owed != COUNT'(DRAIN_WORDS);
  assign out_valid = run && held != '0;
  assign out_data = buffer[get];
  assign leaves = out_valid && out_ready;
  assign done = leaves && buffer_last[get];

  npu_cursor cursor (
      .clk(clk),
      .start(start),
      .instruction(instruction),
      .advance(served),
      .addr(req_addr),
      .beyond(),
      .last(last)
  );

  always_ff @(posedge clk) begin
    if (reset) begin
      busy <= 1'b0;
      reading <= 1'b0;
      starting <= 1'b0;
      put <= '0;
      get <= '0;
      held <= '0;
      owed <= '0;
      arrives <= 1'b0;
    end else begin
      arrives <= served;
      arrives_last <= last;
      if (served && last) reading <= 1'b0;
      if (arrives) begin
        buffer[put] <= data;
        buffer_last[put] <= arrives_last;
        put <= put + PLACE'(1);
      end
      if (leaves) get <= get + PLACE'(1);
      held <= held + COUNT'(arrives) - COUNT'(leaves);
      owed <= owed + COUNT'(served) - COUNT'(leaves);
      if (done) busy <= 1'b0;
      if (start) busy <= 1'b1;
      // What completed before this starts may be written in the cycle after.
      starting <= start;
      if (starting) reading <= 1'b1;
    end
  end
endmodule
