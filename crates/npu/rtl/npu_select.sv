// One of COUNT words.
module npu_select #(
    parameter int COUNT = 8,
    parameter int BITS = 64
) (
    input logic [$clog2(COUNT)-1:0] index,
    input logic [COUNT-1:0][BITS-1:0] words,
    output logic [BITS-1:0] word
);
  assign word = words[index];
endmodule
