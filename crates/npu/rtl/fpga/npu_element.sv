// The element in carry chains, for FPGAs with LUTs of four inputs: fewer than half the LUTs of the form for cells. To the outside it is that one. What a
// place of a chain does is told in npu_carry.sv; a full adder of three ANDs is two places: one makes the carry out of the first, one adds the others.
module npu_element
  import npu_places::*;
(
    input logic clk,
    input logic clear,
    input logic en,
    // Stage 1: the operands.
    input logic [63:0] x,
    input logic [63:0] w,
    // Stage 2: the count will be subtracted.
    input logic count_subtract,
    // Stage 3: what the count does to the local accumulator.
    input logic local_en,
    input logic local_set,
    input logic local_double,
    input logic local_subtract,
    input logic local_last,
    // Stage 4: the local accumulator is the dot of a group.
    input logic main_en,
    input logic main_set,
    output logic [31:0] main
);
  // Bits of the local accumulator, as many as 64 · 255 · 255 and a sign need.
  localparam int SUM = 23;

  // Stage 1: 15 of 16 lanes are counted, the last waits for a place where a carry is made.
  logic [3:0][3:0] counted, counts;
  logic [3:0] odd, odds;
  for (genvar k = 0; k < 4; k++) begin : lanes
    logic [15:0] p, q;
    logic [19:0] a, b, c, d, s;
    assign p = x[16*k+:16];
    assign q = w[16*k+:16];
    // Places 0 to 3 and 7 to 10 add lanes three at a time; 4 to 6 and 11 to 13 two such sums and a lane; 14 to 17 the two sums of 7 and a lane.
    assign a = {p[15], 1'b0, s[7], s[6], s[5], p[14], s[9], s[8], p[13], p[11], p[10], p[8], p[7], s[2], s[1], p[6], p[4], p[3], p[1], p[0]};
    assign b = {q[15], 4'b0, q[14], 2'b0, q[13], q[11], q[10], q[8], q[7], 2'b0, q[6], q[4], q[3], q[1], q[0]};
    assign c = {2'b0, s[14], s[13], s[12], 1'b0, s[11], s[10], 1'b0, p[12], 1'b0, p[9], 1'b0, s[4], s[3], 1'b0, p[5], 1'b0, p[2], 1'b0};
    assign d = {9'h1ff, q[12], 1'b1, q[9], 4'hf, q[5], 1'b1, q[2], 1'b1};
    npu_carry #(
        .PLACES(20),
        .INIT({SHOW_AND, SHOW, ADD, ADD, ADD, MAKE_AND, ADD, ADD, MAKE_AND, ADD_ANDS, MAKE_AND, ADD_ANDS, MAKE_AND,
               ADD, ADD, MAKE_AND, ADD_ANDS, MAKE_AND, ADD_ANDS, MAKE_AND})
    ) chain (
        .a(a),
        .b(b),
        .c(c),
        .d(d),
        .s(s)
    );
    assign counted[k] = s[18:15];
    assign odd[k] = s[19];
  end

  // Stage 2: their sum, or what is one less than its negative; the last lane of all waits once more, inverted with it.
  logic [17:0] a2, b2, c2, s2;
  logic [5:0] count;
  logic last_lane;
  assign a2 = {odds[3], 1'b0, s2[5:1], odds[2], counts[2], odds[1], counts[0], odds[0]};
  assign b2 = {count_subtract, 1'b0, {6{count_subtract}}, 10'b0};
  assign c2 = {2'b0, s2[10:6], 1'b0, counts[3], 1'b0, counts[1], 1'b0};
  npu_carry #(
      .PLACES(18),
      .INIT({SHOW_XOR, SHOW, {5{ADD_XORS}}, MAKE_XOR, {4{ADD}}, MAKE, {4{ADD}}, MAKE})
  ) sum_up (
      .a(a2),
      .b(b2),
      .c(c2),
      .d('1),
      .s(s2)
  );

  // Stage 3: the local accumulator. It is empty from the end of a group on, when its value has gone to `dot`.
  logic [SUM-1:0] sum, dot;
  logic [SUM:0] s3;
  npu_carry #(
      .PLACES(SUM + 1),
      .INIT({{SUM{ADD_CHOSEN}}, MAKE})
  ) accumulate (
      .a({{SUM - 6{local_subtract}}, count, last_lane}),
      .b({{SUM{local_double}}, 1'b0}),
      .c({sum, 1'b0}),
      .d({sum[SUM-2:0], 2'b01}),
      .s(s3)
  );

  // Stage 4.
  logic [31:0] s4;
  npu_carry #(
      .PLACES(32),
      .INIT({32{ADD_UNLESS}})
  ) add (
      .a({{32 - SUM{dot[SUM-1]}}, dot}),
      .b({32{main_set}}),
      .c(main),
      .d('1),
      .s(s4)
  );

  logic ends;
  assign ends = en && local_en && local_last;
  always_ff @(posedge clk) begin
    if (en) begin
      counts <= counted;
      odds <= odd;
      count <= s2[16:11];
      last_lane <= s2[17];
      if (local_en) dot <= s3[SUM:1];
      if (main_en) main <= s4;
    end
    if (clear || ends) sum <= '0;
    else if (en && local_en) sum <= s3[SUM:1];
  end
endmodule
