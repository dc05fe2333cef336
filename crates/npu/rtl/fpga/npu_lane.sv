// The lane in carry chains, for FPGAs with LUTs of four inputs: half the LUTs of the form for cells. To the outside it is that one. What a place of a
// chain does is told in npu_carry.sv.
module npu_lane
  import npu_pkg::*;
  import npu_types::*;
  import npu_places::*;
(
    input logic clk,
    // What the instruction does: the maximum, or else a sum: weighted by taps or, weights being 0, of taps 0 and 1 times `ma` and `mb`.
    input logic maximum,
    input logic [15:0] ma,
    input logic [15:0] mb,
    // Stage 2: a bit of every tap; taps that do not count are 0.
    input logic step_en,
    input logic [TURN_BITS-1:0] step_turn,
    input logic [TAPS-1:0] bits,
    input logic [TAPS-1:0] counts,
    input logic [TAPS-1:0][7:0] weights,
    input logic first_plane,
    // Signs of the three partial sums, the third's that of the first if it has taps; of a maximum, that of the plane.
    input logic [2:0] negative,
    // Stage 3: the local sum.
    input logic local_en,
    input logic [TURN_BITS-1:0] local_turn,
    input logic local_set,
    // Stage 4: the main sum, and the word's last.
    input logic main_en,
    input logic [TURN_BITS-1:0] main_turn,
    input logic main_set,
    output logic [31:0] total
);
  // Bits of the local sum, as many as 2 · 255 · 65535 and a sign need.
  localparam int LOCAL = 26;
  // State, once for every turn.
  logic [TAPS-1:0] still_alive[TURNS];
  logic [LOCAL-1:0] local_sums[TURNS];
  logic [31:0] main_sums[TURNS];

  // Stage 2. Of a maximum: the taps that are the greatest in the planes so far.
  logic [TAPS-1:0] candidates, kept;
  logic greatest;
  assign candidates = first_plane ? counts : still_alive[step_turn];
  assign kept = candidates & (bits ^ {TAPS{negative[0]}});
  assign greatest = kept != '0;

  // Sums of three taps: of two, then with the third.
  logic [2:0][9:0] three;
  for (genvar r = 0; r < 3; r++) begin : taps
    logic [2:0][9:0] weight;
    logic [9:0] two;
    always_comb for (int t = 0; t < 3; t++) weight[t] = {{2{weights[3*r+t][7]}}, weights[3*r+t]};
    npu_carry #(
        .PLACES(10),
        .INIT({10{ADD_ANDS}})
    ) add_two (
        .a(weight[0]),
        .b({10{bits[3*r]}}),
        .c(weight[1]),
        .d({10{bits[3*r+1]}}),
        .s(two)
    );
    npu_carry #(
        .PLACES(10),
        .INIT({10{ADD}})
    ) add_third (
        .a(two),
        .b('0),
        .c(weight[2]),
        .d({10{bits[3*r+2]}}),
        .s(three[r])
    );
  end
  logic [16:0] p0, p1;
  logic [9:0] p2;
  logic [1:0] sign;
  always_ff @(posedge clk) begin
    if (step_en) begin
      p0 <= {{7{three[0][9]}}, three[0]} | {1'b0, ma & {16{bits[0]}}} | {16'b0, maximum && greatest ^ negative[0]};
      p1 <= {{7{three[1][9]}}, three[1]} | {1'b0, mb & {16{bits[1]}}};
      p2 <= three[2];
      sign <= negative[1:0];
      still_alive[step_turn] <= greatest ? kept : candidates;
    end
  end

  // Stage 3: the first and the third; with the second, each inverted by its sign; and twice the local sum. What inverting leaves to be added goes in as
  // carries.
  logic [17:0] odd, both;
  logic [19:0] s_both;
  logic [LOCAL-1:0] local_sum, sum, block;
  logic [LOCAL+1:0] s_sum;
  assign local_sum = local_sums[local_turn];
  npu_carry #(
      .PLACES(18),
      .INIT({18{ADD}})
  ) add_odd (
      .a({p0[16], p0}),
      .b('0),
      .c({{8{p2[9]}}, p2}),
      .d('1),
      .s(odd)
  );
  npu_carry #(
      .PLACES(20),
      .INIT({SHOW, {18{ADD_SIGNED}}, MAKE})
  ) add_both (
      .a({1'b0, odd, sign[0]}),
      .b({1'b0, {18{sign[0]}}, 1'b0}),
      .c({1'b0, p1[16], p1, 1'b0}),
      .d({1'b1, {18{sign[1]}}, 1'b1}),
      .s(s_both)
  );
  assign both = s_both[18:1];
  npu_carry #(
      .PLACES(LOCAL + 2),
      .INIT({SHOW, {LOCAL{ADD_UNLESS}}, MAKE})
  ) add_local (
      .a({1'b0, {LOCAL - 18{both[17]}}, both, sign[1]}),
      .b({1'b0, {LOCAL{local_set}}, 1'b0}),
      .c({1'b0, local_sum[LOCAL-2:0], 2'b0}),
      .d('1),
      .s(s_sum)
  );
  assign sum = s_sum[LOCAL:1];
  always_ff @(posedge clk) begin
    if (local_en) begin
      block <= sum;
      local_sums[local_turn] <= sum;
    end
  end

  // Stage 4: is the block more than the main sum, and what of both is in the total.
  logic [31:0] main_sum, block_sum;
  logic [33:0] s_more;
  logic with_main, with_block;
  assign main_sum = main_sums[main_turn];
  assign block_sum = {{32 - LOCAL{block[LOCAL-1]}}, block};
  npu_carry #(
      .PLACES(34),
      .INIT({SHOW, SHOW, {32{MORE}}})
  ) compare (
      // Of the signs it is the other's that makes more.
      .a({2'b0, main_sum[31], block_sum[30:0]}),
      .b('0),
      .c({2'b0, block_sum[31], main_sum[30:0]}),
      .d('1),
      .s(s_more)
  );
  assign with_block = main_set || !maximum || s_more[32];
  assign with_main = !main_set && !(maximum && s_more[32]);
  npu_carry #(
      .PLACES(32),
      .INIT({32{ADD_ANDS}})
  ) add_main (
      .a(block_sum),
      .b({32{with_block}}),
      .c(main_sum),
      .d({32{with_main}}),
      .s(total)
  );
  always_ff @(posedge clk) begin
    if (main_en) main_sums[main_turn] <= total;
  end
endmodule
