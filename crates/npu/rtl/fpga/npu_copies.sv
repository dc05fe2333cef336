// The same with the FPGA's own flip-flops, which synthesis, told to keep them, does not make one of.
module npu_copies #(
    parameter int COUNT = 1,
    parameter logic AT_RESET = 1'b0
) (
    input logic clk,
    input logic reset,
    input logic next,
    output logic [COUNT-1:0] copies
);
  logic value;
  assign value = reset ? AT_RESET : next;
  for (genvar k = 0; k < COUNT; k++) begin : copy
    (* keep *)
    TRELLIS_FF #(
        .GSR("DISABLED"),
        .CEMUX("1"),
        .CLKMUX("CLK"),
        .LSRMUX("LSR"),
        .SRMODE("LSR_OVER_CE"),
        .REGSET("RESET")
    ) register (
        .CLK(clk),
        .LSR(1'b0),
        .CE(1'b1),
        .DI(value),
        .Q(copies[k])
    );
  end
endmodule
