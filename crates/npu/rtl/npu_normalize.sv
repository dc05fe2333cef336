// An integer as binary32 counts it: its magnitude with the leading one at the top, of which 24 bits are kept and rounded to nearest even. Two stages:
// acc in cycle t gives what is registered at the end of cycle t + 1.
module npu_normalize (
    input logic clk,
    input logic [31:0] acc,
    output logic sign,
    output logic zero,
    // The upper 24 bits of the magnitude << shift, and whether they are rounded up.
    output logic [23:0] upper,
    output logic [4:0] shift,
    output logic up
);
  // The leading one moves into the upper byte, then to the top.
  logic m_sign, m_zero;
  logic [31:0] m_norm, norm, coarse, fine;
  logic [4:3] m_shift, coarse_shift;
  logic [2:0] fine_shift;
  always_comb begin
    coarse = acc[31] ? -acc : acc;
    coarse_shift = '0;
    for (int k = 4; k >= 3; k--) begin
      if ((coarse >> (32 - (1 << k))) == '0) begin
        coarse = coarse << (1 << k);
        coarse_shift[k] = 1'b1;
      end
    end
    fine = m_norm;
    fine_shift = '0;
    for (int k = 2; k >= 0; k--) begin
      if ((fine >> (32 - (1 << k))) == '0) begin
        fine = fine << (1 << k);
        fine_shift[k] = 1'b1;
      end
    end
  end

  always_ff @(posedge clk) begin
    m_sign <= acc[31];
    m_zero <= acc == '0;
    m_norm <= coarse;
    m_shift <= coarse_shift;

    sign <= m_sign;
    zero <= m_zero;
    norm <= fine;
    shift <= {m_shift, fine_shift};
  end
  assign upper = norm[31:8];
  assign up = norm[7] && (norm[8] || norm[6:0] != '0);
endmodule
