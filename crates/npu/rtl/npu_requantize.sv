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
  // Stage 1: magnitude, its leading one moved into the upper byte.
  logic m_sign, m_zero;
  logic [31:0] m_norm;
  logic [4:3] m_shift;
  logic [7:0] m_exp;
  logic [22:0] m_man;
  logic [31:0] coarse;
  logic [4:3] coarse_shift;
  always_comb begin
    coarse = acc[31] ? -acc : acc;
    coarse_shift = '0;
    for (int k = 4; k >= 3; k--) begin
      if ((coarse >> (32 - (1 << k))) == '0) begin
        coarse = coarse << (1 << k);
        coarse_shift[k] = 1'b1;
      end
    end
  end

  // Stage 2: its leading one at the top. Exponents are carried as `right`, 9 minus the exponent of the value: how far its 24 bits lie below 2^10.
  logic a_sign, a_zero;
  logic [31:0] a_norm, fine;
  logic [2:0] fine_shift;
  logic signed [9:0] a_right;
  logic [22:0] a_man;
  always_comb begin
    fine = m_norm;
    fine_shift = '0;
    for (int k = 2; k >= 0; k--) begin
      if ((fine >> (32 - (1 << k))) == '0) begin
        fine = fine << (1 << k);
        fine_shift[k] = 1'b1;
      end
    end
  end

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

  // Stage 5: the product in 24 bits, rounded, which may make 2^24 of them; whether it is far below one half, or 1024 and more.
  logic d_sign, d_nothing, d_large;
  logic [24:0] d_man;
  logic [3:0] d_right;
  logic [47:0] aligned;
  logic signed [9:0] right;
  assign aligned = c_product[47] ? c_product : c_product << 1;
  assign right = c_right - 10'(c_product[47]);

  // Stage 6: the value is d_man · 2^(−14 − right), rounded. Of 1024 and more only the sign matters: it is beyond both clamps.
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
    m_sign <= acc[31] ^ scale[31];
    m_zero <= acc == '0;
    m_norm <= coarse;
    m_shift <= coarse_shift;
    m_exp <= scale[30:23];
    m_man <= scale[22:0];

    a_sign <= m_sign;
    a_zero <= m_zero;
    a_norm <= fine;
    // 9 − (31 − shift) − (exp − 127).
    a_right <= 10'sd105 + $signed({5'b0, m_shift, fine_shift}) - $signed({2'b0, m_exp});
    a_man <= m_man;

    b_sign <= a_sign;
    b_zero <= a_zero;
    b_up <= a_norm[7] && (a_norm[8] || a_norm[6:0] != '0);
    b_products[0] <= a_norm[19:8] * scale_man[11:0];
    b_products[1] <= a_norm[31:20] * scale_man[11:0];
    b_products[2] <= a_norm[19:8] * scale_man[23:12];
    b_products[3] <= a_norm[31:20] * scale_man[23:12];
    b_scale <= scale_man;
    b_right <= a_right;

    c_sign <= b_sign;
    c_zero <= b_zero;
    c_product <= ({b_products[3], b_products[0]} + 48'(b_up ? b_scale : '0))
        + {11'b0, 25'(b_products[1]) + 25'(b_products[2]), 12'b0};
    c_right <= b_right;

    d_sign <= c_sign;
    d_nothing <= c_zero || right > 10'sd10;
    d_large <= right < 10'sd0;
    d_man <= {1'b0, aligned[47:24]} + 25'(aligned[23] && (aligned[24] || aligned[22:0] != '0));
    d_right <= right[3:0];

    e_sign <= d_sign;
    if (d_nothing) e_rint <= '0;
    else if (d_large) e_rint <= 11'd1024;
    else e_rint <= whole + 11'(half && (whole[0] || below));
  end

  // Stage 7: to the other side of zero, moved, clamped.
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
