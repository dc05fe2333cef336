// Sizes that follow from those of the package `npu_pkg`, which crates/npu/src/config makes for a preset.
package npu_types;
  import npu_pkg::*;

  // Addresses of the activation memory count words modulo 2^24.
  localparam int ADDR = 24;
  localparam int BANK_BITS = $clog2(BANKS);
  localparam int BANK_ROW = ADDR - BANK_BITS;
  // Rows that exist.
  localparam int BANK_ADDR = $clog2(BANK_WORDS);
  localparam int ROW_BITS = $clog2(ROWS);
  localparam int COL_BITS = $clog2(COLS);
  // Coordinates of input pixels; columns stay within 17 bits, rows within 22.
  localparam int YB = 22;
  localparam int XB = 17;
  // Places of output pixels, with gaps between rows.
  localparam int PIXEL_BITS = 25;
  localparam int PARAM_BITS = 17;
  localparam int WEIGHT_BITS = 25;
  localparam int WEIGHT_ADDR = $clog2(WEIGHT_WORDS);
  localparam int PARAM_ADDR = $clog2(PARAM_VECTORS);
  localparam int TABLE_WORDS = TABLES * 32;
  localparam int TABLE_ADDR = $clog2(TABLE_WORDS);
  localparam int PROGRAM_ADDR = $clog2(INSTRUCTIONS * INSTRUCTION_WORDS);

  // Turns of the auxiliary unit's lanes to be all 64 of a word.
  localparam int TURNS = LANES / AUX_LANES;
  localparam int TURN_BITS = TURNS > 1 ? $clog2(TURNS) : 1;

  // Whose results a vector in the post unit holds: one of two array instructions, or the auxiliary one.
  localparam logic [1:0] SRC_AUX = 2'd2;

  // From one plane of a word to the next, for a stride field that counts rows of all banks.
  function automatic logic [ADDR-1:0] plane_stride(input logic [15:0] rows);
    plane_stride = ADDR'({8'b0, rows} << BANK_BITS) | ADDR'(1);
  endfunction

  // Three bits times an address.
  function automatic logic [ADDR-1:0] times(input logic [2:0] n, input logic [ADDR-1:0] a);
    times = (n[0] ? a : '0) + (n[1] ? a << 1 : '0) + (n[2] ? a << 2 : '0);
  endfunction
endpackage
