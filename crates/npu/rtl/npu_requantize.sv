// y = clamp(rint(f32(acc) * scale) + zero, lo, hi): one conversion, one binary32 product, each rounded to nearest even, then
// rint to nearest even. Integer logic in seven stages: acc in cycle t gives y, not registered, in cycle t + 6.
module npu_requantize (
    input logic clk,
    input logic [31:0] acc,
    // binary32, positive and normal.
    input logic [31:0] scale,
    // Those of the vector whose y comes out.
    input logic signed [8:0] zero,
    input logic signed [8:0] lo,
    input logic signed [8:0] hi,
    output logic [8:0] y
);
  // Stages 1 and 2: the conversion but for its last step. Exponents are carried as `right`, 9 minus the exponent of the value: how far its 24 bits lie
  // below 2^10.
  logic a_sign, a_zero, a_up;
  logic [23:0] a_upper;
  logic [4:0] a_shift;
  npu_normalize normalize (.clk, .acc, .sign(a_sign), .zero(a_zero), .upper(a_upper), .shift(a_shift), .up(a_up));
  logic m_sign, s_sign;
  logic [7:0] m_exp, a_exp;
  logic [22:0] m_man, a_man;

  // Stage 3: the products of halves of the upper 24 bits and of the scale's; whether those bits are rounded up.
  logic b_sign, b_zero, b_up;
  logic [3:0][23:0] b_products;
  logic [23:0] b_scale;
  logic signed [9:0] b_right;
  logic [23:0] scale_man;
  assign scale_man = {1'b1, a_man};

  // Stage 4: the product. To round up adds the scale once more; where that carries, 2^24 takes the place of 1.0 with the next exponent: the product
  // is one bit longer instead.
  logic c_sign, c_zero;
  logic [47:0] c_product;
  logic signed [9:0] c_right;

  always_ff @(posedge clk) begin
    m_sign <= scale[31];
    m_exp <= scale[30:23];
    m_man <= scale[22:0];

    s_sign <= m_sign;
    a_exp <= m_exp;
    a_man <= m_man;

    b_sign <= a_sign ^ s_sign;
    b_zero <= a_zero;
    b_up <= a_up;
    b_products[0] <= a_upper[11:0] * scale_man[11:0];
    b_products[1] <= a_upper[23:12] * scale_man[11:0];
    b_products[2] <= a_upper[11:0] * scale_man[23:12];
    b_products[3] <= a_upper[23:12] * scale_man[23:12];
    b_scale <= scale_man;
    // 9 − (31 − shift) − (exp − 127).
    b_right <= 10'sd105 + $signed({5'b0, a_shift}) - $signed({2'b0, a_exp});

    c_sign <= b_sign;
    c_zero <= b_zero;
    c_product <= ({b_products[3], b_products[0]} + 48'(b_up ? b_scale : '0))
        + {11'b0, 25'(b_products[1]) + 25'(b_products[2]), 12'b0};
    c_right <= b_right;
  end

  // Stages 5 to 7.
  npu_round round (.clk, .sign(c_sign), .nothing(c_zero), .product(c_product), .right(c_right), .zero, .lo, .hi, .y);
endmodule
