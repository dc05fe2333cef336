// The lane of the auxiliary unit and its form for FPGAs, side by side, under the controls that the unit gives: the same totals, whatever comes.
// `suite/npu/run` proves it by induction; `npu_lane_fpga` is what it calls the form for FPGAs.
module lane
  import npu_pkg::*;
  import npu_types::*;
(
    input logic clk,
    input logic maximum,
    input logic add,
    input logic [15:0] ma,
    input logic [15:0] mb,
    input logic step_en,
    input logic [TURN_BITS-1:0] step_turn,
    input logic [TAPS-1:0] bits,
    input logic [TAPS-1:0] counts,
    input logic [TAPS-1:0][7:0] weights,
    input logic first_plane,
    input logic [2:0] negative,
    input logic local_en,
    input logic [TURN_BITS-1:0] local_turn,
    input logic local_set,
    input logic main_en,
    input logic [TURN_BITS-1:0] main_turn,
    input logic main_set
);
  // What adds up two activations has no weights and takes a sign for each; all else has one sign, and no multipliers.
  logic [15:0] x, y;
  logic [TAPS-1:0][7:0] w;
  logic [2:0] sign;
  assign x = add ? ma : '0;
  assign y = add ? mb : '0;
  assign w = add || maximum ? '0 : weights;
  assign sign = add ? {1'b0, negative[1:0]} : {3{negative[0]}};

  logic [31:0] a, b;
  npu_lane cells (.clk, .maximum(maximum && !add), .ma(x), .mb(y), .step_en, .step_turn, .bits, .counts, .weights(w), .first_plane, .negative(sign),
                  .local_en, .local_turn, .local_set, .main_en, .main_turn, .main_set, .total(a));
  npu_lane_fpga fpga (.clk, .maximum(maximum && !add), .ma(x), .mb(y), .step_en, .step_turn, .bits, .counts, .weights(w), .first_plane, .negative(sign),
                      .local_en, .local_turn, .local_set, .main_en, .main_turn, .main_set, .total(b));

  always_comb begin
    assert (a == b);
    // What holds in every state.
    assert (cells.parts[0] == (fpga.p0 ^ {17{fpga.sign[0]}}) && cells.ones[0] == fpga.sign[0]);
    assert (cells.parts[1] == (fpga.p1 ^ {17{fpga.sign[1]}}) && cells.ones[1] == fpga.sign[1]);
    if (fpga.p2 == '0 && !cells.ones[2]) assert (cells.parts[2] == '0);
    else begin
      assert (cells.parts[2] == ({{7{fpga.p2[9]}}, fpga.p2} ^ {17{fpga.sign[0]}}) && cells.ones[2] == fpga.sign[0]);
    end
    // Sums of weights are of ten bits, products are not negative, and never both.
    assert (!fpga.p0[16] || fpga.p0[15:9] == '1);
    assert (!fpga.p1[16] || fpga.p1[15:9] == '1);
    assert (fpga.p2 == '0 || fpga.p0[16:9] == {8{fpga.p0[16]}} && fpga.p1[16:9] == {8{fpga.p1[16]}});
    assert (cells.block == fpga.block);
    for (int t = 0; t < TURNS; t++) begin
      assert (cells.still_alive[t] == fpga.still_alive[t]);
      assert (cells.local_sums[t] == fpga.local_sums[t]);
      assert (cells.main_sums[t] == fpga.main_sums[t]);
    end
  end
endmodule
