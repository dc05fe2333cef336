// The carry cell of ECP5: two places, each a LUT of four inputs p and a LUT of its first two g; the sum is p ^ carry, the next carry p ? carry : g.
// What synthesis puts there is the cell itself; this is what it does (Lattice, ECP5 family data sheet, "Ripple mode").
/* verilator lint_off DECLFILENAME */
module CCU2C #(
    parameter logic [15:0] INIT0 = '0,
    parameter logic [15:0] INIT1 = '0,
    parameter INJECT1_0 = "NO",
    parameter INJECT1_1 = "NO"
) (
    input logic CIN,
    input logic A0,
    input logic B0,
    input logic C0,
    input logic D0,
    input logic A1,
    input logic B1,
    input logic C1,
    input logic D1,
    output logic S0,
    output logic S1,
    output logic COUT
);
  logic p0, p1, between;
  assign p0 = INIT0[{D0, C0, B0, A0}];
  assign p1 = INIT1[{D1, C1, B1, A1}];
  assign S0 = p0 ^ CIN;
  assign between = p0 ? CIN : INIT0[{2'b0, B0, A0}];
  assign S1 = p1 ^ between;
  assign COUT = p1 ? between : INIT1[{2'b0, B1, A1}];
endmodule

// A flip-flop as `npu_copies` uses it.
module TRELLIS_FF #(
    parameter GSR = "DISABLED",
    parameter CEMUX = "1",
    parameter CLKMUX = "CLK",
    parameter LSRMUX = "LSR",
    parameter SRMODE = "LSR_OVER_CE",
    parameter REGSET = "RESET"
) (
    input logic CLK,
    input logic LSR,
    input logic CE,
    input logic DI,
    output logic Q
);
  always_ff @(posedge CLK) Q <= DI;
endmodule

// What a place of a chain can be: the LUTs of a carry cell, with d = 1 where d is not told of. A place adds two bits and the carry; one that makes a
// carry of its own, or ends it, shows the one before.
package npu_places;
  localparam logic [15:0] MAKE = 16'h00AA;  // a is the carry
  localparam logic [15:0] MAKE_AND = 16'h0008;  // a & b is the carry
  localparam logic [15:0] MAKE_XOR = 16'h0066;  // a ^ b is the carry
  localparam logic [15:0] ADD = 16'h5AAA;  // a + (c & d)
  localparam logic [15:0] ADD_ANDS = 16'h7888;  // (a & b) + (c & d)
  localparam logic [15:0] ADD_XORS = 16'h5A66;  // (a ^ b) + (c ^ b)
  localparam logic [15:0] ADD_SIGNED = 16'h6996;  // (a ^ b) + (c ^ d)
  localparam logic [15:0] ADD_CHOSEN = 16'h569A;  // a + (b ? d : c)
  localparam logic [15:0] ADD_UNLESS = 16'h9AAA;  // a + (b ? 0 : c)
  localparam logic [15:0] MORE = 16'hA5AA;  // where a and c differ, a is the carry
  localparam logic [15:0] SHOW = 16'h0000;  // the carry is the sum, and ends
  localparam logic [15:0] SHOW_AND = 16'h8800;  // where no carry comes: a & b is the sum
  localparam logic [15:0] SHOW_XOR = 16'h6600;  // where no carry comes: a ^ b is the sum
endpackage

// A chain of carry cells. Place k has the LUT of INIT[k].
module npu_carry #(
    parameter int PLACES = 2,
    parameter logic [PLACES-1:0][15:0] INIT = '0
) (
    input logic [PLACES-1:0] a,
    input logic [PLACES-1:0] b,
    input logic [PLACES-1:0] c,
    input logic [PLACES-1:0] d,
    output logic [PLACES-1:0] s
);
  logic [PLACES/2:0] carry;
  assign carry[0] = 1'b0;
  for (genvar k = 0; k < PLACES / 2; k++) begin : pair
    CCU2C #(
        .INIT0(INIT[2*k]),
        .INIT1(INIT[2*k+1]),
        .INJECT1_0("NO"),
        .INJECT1_1("NO")
    ) two (
        .CIN(carry[k]),
        .A0(a[2*k]),
        .B0(b[2*k]),
        .C0(c[2*k]),
        .D0(d[2*k]),
        .A1(a[2*k+1]),
        .B1(b[2*k+1]),
        .C1(c[2*k+1]),
        .D1(d[2*k+1]),
        .S0(s[2*k]),
        .S1(s[2*k+1]),
        .COUT(carry[k+1])
    );
  end
endmodule
