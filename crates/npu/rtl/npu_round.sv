// The exact product of two significands as binary32, that as an integer, moved and clamped: each step to nearest even. Three stages: a product in
// cycle t gives y, not registered, in cycle t + 2.
module npu_round (
    input logic clk,
    input logic sign,
    // The product is zero, whatever its bits.
    input logic nothing,
    // Of two significands of 24 bits, from 2^46 on; one may be 2^24. The value is product · 2^(−37 − right).
    input logic [47:0] product,
    input logic signed [9:0] right,
    // Those of the vector whose y comes out.
    input logic signed [8:0] zero,
    input logic signed [8:0] lo,
    input logic signed [8:0] hi,
    output logic [8:0] y
);
  // Stage 1: the product in 24 bits, rounded, which may make 2^24 of them; whether it is far below one half, or 1024 and more.
  logic d_sign, d_nothing, d_large;
  logic [24:0] d_man;
  logic [3:0] d_right;
  logic [47:0] aligned;
  logic signed [9:0] lower;
  assign aligned = product[47] ? product : product << 1;
  assign lower = right - 10'(product[47]);

  // Stage 2: the value is d_man · 2^(−14 − d_right), rounded. Of 1024 and more only the sign matters: it is beyond both clamps.
  logic e_sign;
  logic [10:0] e_rint;
  logic [10:0] whole;
  logic half, below;
  always_comb begin
    {whole, half} = d_man[24:13] >> d_right;
    below = 1'b0;
    for (int k = 0; k < 25; k++) if (d_man[k] && 5'(k) < 5'd13 + 5'(d_right)) below = 1'b1;
  end

  always_ff @(posedge clk) begin
    d_sign <= sign;
    d_nothing <= nothing || lower > 10'sd10;
    d_large <= lower < 10'sd0;
    d_man <= {1'b0, aligned[47:24]} + 25'(aligned[23] && (aligned[24] || aligned[22:0] != '0));
    d_right <= lower[3:0];

    e_sign <= d_sign;
    if (d_nothing) e_rint <= '0;
    else if (d_large) e_rint <= 11'd1024;
    else e_rint <= whole + 11'(half && (whole[0] || below));
  end

  // Stage 3: to the other side of zero, moved, clamped.
  logic signed [11:0] offset;
  logic signed [12:0] sum;
  always_comb begin
    offset = {1'b0, e_rint} ^ {12{e_sign}};
    sum = 13'(zero) + 13'(offset) + 13'(e_sign);
    if (sum < 13'(lo)) y = lo;
    else if (sum > 13'(hi)) y = hi;
    else y = sum[8:0];
  end
endmodule
