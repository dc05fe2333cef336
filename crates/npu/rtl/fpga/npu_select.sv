// One of COUNT words, a power of two up to 16, by the multiplexers behind an FPGA's LUTs: a LUT for every two words. Mapping that knows LUTs alone takes
// half as many more.
/* verilator lint_off DECLFILENAME */
// Cells of ECP5: a LUT; the multiplexer of two LUTs, and of two such (Lattice, "FPGA Libraries Reference Guide").
module LUT4 #(
    parameter logic [15:0] INIT = '0
) (
    input logic A,
    input logic B,
    input logic C,
    input logic D,
    output logic Z
);
  assign Z = INIT[{D, C, B, A}];
endmodule

module PFUMX (
    input logic ALUT,
    input logic BLUT,
    input logic C0,
    output logic Z
);
  assign Z = C0 ? ALUT : BLUT;
endmodule

module L6MUX21 (
    input logic D0,
    input logic D1,
    input logic SD,
    output logic Z
);
  assign Z = SD ? D1 : D0;
endmodule

module npu_select #(
    parameter int COUNT = 8,
    parameter int BITS = 64
) (
    input logic [$clog2(COUNT)-1:0] index,
    input logic [COUNT-1:0][BITS-1:0] words,
    output logic [BITS-1:0] word
);
  localparam int LEVELS = $clog2(COUNT);
  for (genvar b = 0; b < BITS; b++) begin : bit_of
    // What is left after each level.
    for (genvar l = 0; l <= LEVELS; l++) begin : level
      logic [(COUNT>>l)-1:0] of;
      for (genvar k = 0; k < COUNT >> l; k++) begin : one
        if (l == 0) begin : given
          assign of[k] = words[k][b];
        end else if (l == 1) begin : one_lut
          // The cell itself: a LUT that serves two multiplexers cannot be placed, so none may be merged with its like.
          LUT4 #(.INIT(16'hCACA)) mux (.A(level[0].of[2*k]), .B(level[0].of[2*k+1]), .C(index[0]), .D(1'b0), .Z(of[k]));
        end else if (l == 2) begin : two_luts
          PFUMX mux (.ALUT(level[1].of[2*k+1]), .BLUT(level[1].of[2*k]), .C0(index[1]), .Z(of[k]));
        end else begin : two_pairs
          L6MUX21 mux (.D0(level[l-1].of[2*k]), .D1(level[l-1].of[2*k+1]), .SD(index[l-1]), .Z(of[k]));
        end
      end
    end
    assign word[b] = level[LEVELS].of[0];
  end
endmodule
