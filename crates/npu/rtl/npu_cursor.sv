// The addresses of a transfer: n1 runs of n0 words.
module npu_cursor
  import npu_pkg::*;
  import npu_types::*;
(
    input logic clk,
    input logic start,
    // The instruction that starts: `fetch` or `drain`, which have these fields in the same places.
    input logic [255:0] instruction,
    input logic advance,
    output logic [ADDR-1:0] addr,
    // The address lies beyond the activation memory.
    output logic beyond,
    output logic last
);
  logic [ADDR-1:0] line, step, n0, word, next;
  logic [7:0] runs;
  logic last_word;
  assign last_word = word == n0;
  assign next = last_word ? line + step : addr + ADDR'(1);
  assign last = last_word && runs == '0;

  always_ff @(posedge clk) begin
    if (advance) begin
      word <= last_word ? '0 : word + ADDR'(1);
      addr <= next;
      beyond <= next >> (BANK_BITS + BANK_ADDR) != '0;
      if (last_word) begin
        line <= line + step;
        runs <= runs - 8'd1;
      end
    end
    if (start) begin
      addr <= instruction[FETCH_BASE_LSB+:24];
      beyond <= instruction[FETCH_BASE_LSB+:24] >> (BANK_BITS + BANK_ADDR) != '0;
      line <= instruction[FETCH_BASE_LSB+:24];
      n0 <= instruction[FETCH_N0_LSB+:24];
      runs <= instruction[FETCH_N1_LSB+:8];
      step <= instruction[FETCH_STEP_LSB+:24];
      word <= '0;
    end
  end
endmodule
