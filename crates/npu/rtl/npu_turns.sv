// State of a lane that takes turns: one value for each. What is written in a cycle is there in the next one.
module npu_turns
  import npu_types::*;
#(
    parameter int BITS = 32
) (
    input logic clk,
    input logic write,
    input logic [TURN_BITS-1:0] turn,
    input logic [BITS-1:0] next,
    output logic [BITS-1:0] now
);
  logic [BITS-1:0] values[TURNS];
  assign now = values[turn];
  always_ff @(posedge clk) if (write) values[turn] <= next;
endmodule
