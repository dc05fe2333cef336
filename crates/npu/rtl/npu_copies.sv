// A signal a cycle later, in as many registers as there are places far apart that it goes to.
module npu_copies #(
    parameter int COUNT = 1,
    parameter logic AT_RESET = 1'b0
) (
    input logic clk,
    input logic reset,
    input logic next,
    output logic [COUNT-1:0] copies
);
  always_ff @(posedge clk) copies <= reset ? {COUNT{AT_RESET}} : {COUNT{next}};
endmodule
