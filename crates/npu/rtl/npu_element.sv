// An element of the array: ANDs and counts 64 lanes of a pair of planes, accumulates. Four stages; all of them stand still without `en`.
module npu_element (
    input logic clk,
    input logic clear,
    input logic en,
    // Stage 1: the operands.
    input logic [63:0] x,
    input logic [63:0] w,
    // Stage 2: what stage 3 will be told. The form for FPGAs uses it, and `clear` and `local_last`.
    input logic count_subtract,
    // Stage 3: what the count does to the local accumulator.
    input logic local_en,
    input logic local_set,
    input logic local_double,
    input logic local_subtract,
    input logic local_last,
    // Stage 4: the local accumulator is the dot of a group.
    input logic main_en,
    input logic main_set,
    output logic [31:0] main
);
  // As many bits as 64 · 255 · 255 and a sign need.
  localparam int SUM = 23;
  logic [63:0] both;
  logic [3:0][4:0] partial;
  logic [6:0] count;
  logic signed [SUM-1:0] sum, base, change;

  assign both = x & w;
  assign base = local_set ? '0 : local_double ? sum <<< 1 : sum;
  assign change = $signed({{SUM - 7{1'b0}}, count});

  always_ff @(posedge clk) begin
    if (en) begin
      for (int k = 0; k < 4; k++) partial[k] <= 5'($countones(both[16*k+:16]));
      count <= 7'(partial[0]) + 7'(partial[1]) + 7'(partial[2]) + 7'(partial[3]);
      if (local_en) sum <= local_subtract ? base - change : base + change;
      if (main_en) main <= (main_set ? 32'd0 : main) + {{32 - SUM{sum[SUM-1]}}, sum};
    end
  end
endmodule
