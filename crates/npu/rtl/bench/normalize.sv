// What the conversion of an integer must hold, for every integer. `suite/npu/run` proves it by induction.
module normalize (
    input logic clk,
    input logic [31:0] acc
);
  logic sign, zero, up;
  logic [23:0] upper;
  logic [4:0] shift;
  npu_normalize unit (.clk, .acc, .sign, .zero, .upper, .shift, .up);

  logic [31:0] previous, now, magnitude, moved;
  // Whether what comes out came in.
  logic [1:0] seen;
  initial seen = '0;
  always_ff @(posedge clk) begin
    previous <= acc;
    now <= previous;
    seen <= {seen[0], 1'b1};
  end
  assign magnitude = $signed(now) < 0 ? 32'd0 - now : now;
  assign moved = magnitude << shift;
  always_comb begin
    if (seen[1]) begin
      assert (sign == ($signed(now) < 0));
      assert (zero == (now == '0));
      // Nothing is lost at the top.
      assert (zero || moved[31]);
      assert (moved >> shift == magnitude && upper == moved[31:8]);
      // To nearest, the even one of two.
      assert (up == (moved[7:0] > 8'h80 || moved[7:0] == 8'h80 && moved[8]));
    end
  end
endmodule
