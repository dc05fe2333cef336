// Rounding a product, moving and clamping it, beside what arithmetic says in wide integers: the same results for every product of two significands
// and every exponent. `suite/npu/run` proves it by induction.
module round (
    input logic clk,
    input logic sign,
    input logic nothing,
    input logic [47:0] product,
    input logic signed [9:0] right,
    input logic signed [8:0] zero,
    input logic signed [8:0] lo,
    input logic signed [8:0] hi
);
  logic [8:0] y;
  npu_round unit (.clk, .sign, .nothing, .product, .right, .zero, .lo, .hi, .y);

  // The product to 24 bits, in units of 2^(23 or 24). Below its exponents binary32 has fewer bits, beyond them infinity: neither shows, as the one
  // is far below one half and the other beyond the clamps.
  logic [24:0] dropped, significand;
  int unit_exponent;
  always_comb begin
    if (product >= 48'h8000_0000_0000) begin
      significand = 25'(product >> 24);
      dropped = {product[23:0], 1'b0};
      unit_exponent = -13 - int'(right);
    end else begin
      significand = 25'(product >> 23);
      dropped = {1'b0, product[22:0], 1'b0} << 1;
      unit_exponent = -14 - int'(right);
    end
    if (dropped > 25'h100_0000 || dropped == 25'h100_0000 && significand[0]) significand = significand + 25'd1;
  end

  // significand · 2^unit_exponent to the nearest integer, the even one of two; of large ones the least that is beyond all clamps.
  logic [25:0] below;
  logic [31:0] magnitude;
  always_comb begin
    below = '0;
    if (nothing) magnitude = '0;
    else if (unit_exponent > -14) magnitude = 32'd4096;
    else if (unit_exponent < -26) magnitude = '0;
    else begin
      magnitude = 32'(significand) >> -unit_exponent;
      below = 26'(significand) - 26'(magnitude << -unit_exponent);
      if (2 * 32'(below) > 32'd1 << -unit_exponent || 2 * 32'(below) == 32'd1 << -unit_exponent && magnitude[0]) magnitude = magnitude + 32'd1;
    end
  end

  // Two stages later.
  logic signed [32:0] first, value, sum;
  logic first_in, in;
  always_ff @(posedge clk) begin
    first <= sign ? -33'(magnitude) : 33'(magnitude);
    // The exponents of an integer times a normal number.
    first_in <= product >= 48'h4000_0000_0000 && right >= -10'sd149 && right <= 10'sd135;
    value <= first;
    in <= first_in;
  end
  always_comb begin
    sum = value + 33'(zero);
    if (in && lo <= hi) assert ($signed(y) == (sum < 33'(lo) ? lo : sum > 33'(hi) ? hi : 9'(sum)));
  end
endmodule
