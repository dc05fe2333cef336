// The element and its form for FPGAs, side by side, under the controls that the array gives: the same dots, whatever comes. `suite/npu/run` proves it
// by induction; `npu_element_fpga` is what it calls the form for FPGAs.
module element (
    input logic clk,
    input logic clear,
    input logic en,
    input logic [63:0] x,
    input logic [63:0] w,
    input logic count_subtract,
    input logic local_en,
    input logic local_double,
    input logic local_last,
    input logic main_set
);
  // A pair is subtracted in the stage after the one that was told so; a group begins after the last pair of another; its dot is added in the next stage.
  logic local_subtract, local_set, main_en;
  always_ff @(posedge clk) begin
    if (clear) begin
      local_set <= 1'b1;
      main_en <= 1'b0;
    end else if (en) begin
      if (local_en) local_set <= local_last;
      main_en <= local_en && local_last;
    end
    if (en) local_subtract <= count_subtract;
  end

  logic [31:0] a, b;
  npu_element cells (.clk, .clear, .en, .x, .w, .count_subtract, .local_en, .local_set, .local_double, .local_subtract, .local_last, .main_en, .main_set, .main(a));
  npu_element_fpga fpga (.clk, .clear, .en, .x, .w, .count_subtract, .local_en, .local_set, .local_double, .local_subtract, .local_last, .main_en, .main_set, .main(b));

  always_comb begin
    assert (a == b);
    // What holds in every state.
    for (int k = 0; k < 4; k++) assert (cells.partial[k] == 5'(fpga.counts[k]) + 5'(fpga.odds[k]));
    assert (cells.count == 7'(fpga.count ^ {6{local_subtract}}) + 7'(fpga.last_lane ^ local_subtract));
    assert (fpga.sum == (local_set ? '0 : cells.sum));
    if (main_en) assert (fpga.dot == cells.sum);
  end
endmodule
