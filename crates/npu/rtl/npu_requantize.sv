// y = clamp(rint(f32(acc) * scale) + zero, lo, hi): one conversion, one binary32 product, each rounded to nearest even, then
// rint to nearest even. Integer logic in five stages: acc in cycle t gives y, not registered, in cycle t + 4.
module npu_requantize (
    input logic clk,
    input logic en,
    input logic [31:0] acc,
    // binary32, positive and normal.
    input logic [31:0] scale,
    // Those of the vector whose y comes out.
    input logic signed [8:0] zero,
    input logic signed [8:0] lo,
    input logic signed [8:0] hi,
    output logic [8:0] y
);
  // Stage 1: magnitude, its leading one moved to the top.
  logic a_sign, a_zero;
  logic [31:0] a_norm;
  logic [4:0] a_exp;
  logic [7:0] a_sexp;
  logic [22:0] a_sman;
  logic [31:0] magnitude;
  logic [31:0] norm;
  logic [4:0] shift;

  assign magnitude = acc[31] ? -acc : acc;
  always_comb begin
    norm = magnitude;
    shift = '0;
    for (int k = 4; k >= 0; k--) begin
      if ((norm >> (32 - (1 << k))) == '0) begin
        norm = norm << (1 << k);
        shift[k] = 1'b1;
      end
    end
  end

  // Stage 2: the products of halves of the upper 24 bits and of the scale's; whether those bits are rounded up.
  logic b_sign, b_zero, b_up;
  logic [3:0][23:0] b_products;
  logic [23:0] b_scale;
  logic signed [9:0] b_exp;
  logic [23:0] scale_man;
  assign scale_man = {1'b1, a_sman};

  // Stage 3: the product. To round up adds the scale once more; where that carries, 2^24 takes the place of 1.0 with the next exponent: the product
  // is one bit longer instead.
  logic c_sign, c_zero;
  logic [47:0] c_product;
  logic signed [9:0] c_exp;

  // Stage 4: the product in 24 bits, rounded.
  logic d_sign, d_zero;
  logic [23:0] d_man;
  logic signed [9:0] d_exp;
  logic [47:0] aligned;
  logic [24:0] product;

  assign aligned = c_product[47] ? c_product : c_product << 1;
  assign product = {1'b0, aligned[47:24]} + 25'(aligned[23] && (aligned[24] || aligned[22:0] != '0));

  always_ff @(posedge clk) begin
    if (en) begin
      a_sign <= acc[31] ^ scale[31];
      a_zero <= acc == '0;
      a_norm <= norm;
      a_exp <= 5'd31 - shift;
      a_sexp <= scale[30:23];
      a_sman <= scale[22:0];

      b_sign <= a_sign;
      b_zero <= a_zero;
      b_up <= a_norm[7] && (a_norm[8] || a_norm[6:0] != '0);
      b_products[0] <= a_norm[19:8] * scale_man[11:0];
      b_products[1] <= a_norm[31:20] * scale_man[11:0];
      b_products[2] <= a_norm[19:8] * scale_man[23:12];
      b_products[3] <= a_norm[31:20] * scale_man[23:12];
      b_scale <= scale_man;
      b_exp <= $signed({5'b0, a_exp}) + $signed({2'b0, a_sexp}) - 10'sd127;

      c_sign <= b_sign;
      c_zero <= b_zero;
      c_product <= ({b_products[3], b_products[0]} + 48'(b_up ? b_scale : '0))
          + {11'b0, 25'(b_products[1]) + 25'(b_products[2]), 12'b0};
      c_exp <= b_exp;

      d_sign <= c_sign;
      d_zero <= c_zero;
      d_man <= product[24] ? 24'h800000 : product[23:0];
      d_exp <= c_exp + 10'(c_product[47]) + 10'(product[24]);
    end
  end

  // Stage 5: the value is d_man · 2^(d_exp − 23). Of 1024 and more only the sign matters: it is beyond both clamps.
  logic [3:0] right;
  logic [9:0] whole;
  logic half;
  logic [23:0] below;
  logic [10:0] rint;
  logic signed [11:0] offset;
  logic signed [12:0] sum;

  always_comb begin
    right = 4'(10'sd9 - d_exp);
    {whole, half, below} = {d_man, 11'b0} >> right;
    rint = {1'b0, whole} + 11'(half && (whole[0] || below != '0));
    if (d_zero || d_exp < -10'sd1) rint = '0;
    else if (d_exp >= 10'sd10) rint = 11'd1024;
    offset = d_sign ? -$signed({1'b0, rint}) : $signed({1'b0, rint});
    sum = 13'(offset) + 13'(zero);
    if (sum < 13'(lo)) y = lo;
    else if (sum > 13'(hi)) y = hi;
    else y = sum[8:0];
  end
endmodule
