// The post unit: sums to planes in the activation memory. Sections 4 and 6.7 of the specification.
module npu_post
  import npu_pkg::*;
  import npu_types::*;
(
    input logic clk,
    input logic clear,
    // Instructions that start.
    input logic array_start,
    input logic [511:0] array_instruction,
    input logic aux_start,
    input logic [511:0] aux_instruction,
    // The array's tile; `then` is the next cycle.
    input logic tile_pending,
    input logic tile_pending_then,
    output logic [ROW_BITS-1:0] tile_row,
    input logic [COLS:0][31:0] tile_main,
    output logic tile_accepted,
    output logic tile_accepted_then,
    // The auxiliary unit's result.
    input logic result,
    input logic result_then,
    output logic [2:0] result_segment,
    input logic [COLS-1:0][31:0] result_sums,
    output logic result_accepted,
    output logic accepted,
    // Parameter memory and tables.
    output logic param_read,
    output logic [PARAM_BITS-1:0] param_addr,
    input logic [COLS-1:0][63:0] param_data,
    output logic [COLS-1:0][11:0] table_addr,
    input logic [COLS-1:0][7:0] table_data,
    // Activation memory. Rows beyond it are not written.
    output logic [BANKS-1:0] write,
    output logic [BANKS-1:0][BANK_ADDR-1:0] write_row,
    output logic [BANKS-1:0][63:0] write_data,
    output logic [63:0] write_mask,
    output logic array_done,
    output logic aux_done
);
  logic reset;
  npu_copies own_reset (.clk(clk), .reset(1'b0), .next(clear), .copies(reset));
  localparam int COUNT_BITS = 5;
  // The last stage, in which the vector is written, and the one before, in which the requantizers' y comes out.
  localparam int W = POST_STAGES;
  localparam int Y = POST_STAGES - 1;

  // Instructions whose vectors may be anywhere in the pipeline: two of the array, one of the auxiliary unit.
  logic [511:0] contexts[3];
  logic start_to, head;
  logic [1:0] waiting;

  // ---- The array's side: the next vector.
  logic [511:0] ai;
  // Pixels that are left, minus one; of those the rows of this tile, minus one; whether it is the last of the instruction.
  logic [17:0] a_left, a_after;
  logic [ROW_BITS-1:0] a_rows;
  logic a_ends;
  // Place of the next vector, its pixel in the row; and those of the first row of the tile.
  logic [PIXEL_BITS-1:0] a_position, a_position_next, a_first;
  logic [11:0] a_ox, a_ox_next, a_first_ox;
  logic [ROW_BITS-1:0] a_row;
  logic [1:0] a_phase;
  // Tiles of these pixels that are left, minus one.
  logic [9:0] a_tiles;
  logic [5:0] a_lane;
  logic [ADDR-1:0] a_group;
  logic [PARAM_BITS-1:0] a_param;
  logic a_accept, a_step, a_last_row, a_last_tile, a_last;
  logic a_raw, a_raw_then;
  logic [ROW_BITS-1:0] a_row_then, a_rows_then;
  logic [1:0] a_phase_then;
  logic [511:0] a_next;
  logic a_load;
  function automatic logic [ROW_BITS-1:0] rows_of(input logic [17:0] left);
    rows_of = left < 18'(ROWS) ? ROW_BITS'(left) : ROW_BITS'(ROWS - 1);
  endfunction
  assign ai = contexts[{1'b0, head}];
  assign a_accept = tile_pending && !result;
  // All of a vector is accepted: raw ones take four turns.
  assign a_step = a_accept && (!a_raw || a_phase == 2'd3);
  assign a_last_row = a_row == a_rows;
  assign a_last = tile_accepted && a_last_tile && a_ends;
  assign tile_row = a_row;

  // Whether the tile's last vector is accepted, `a_step && a_last_row`, is worked out in the cycle before.
  assign a_raw_then = a_load ? a_next[CONV_RAW_LSB] : a_raw;
  assign a_rows_then = a_load ? rows_of(a_next[CONV_N_LSB+:18]) : tile_accepted && a_last_tile ? rows_of(a_after) : a_rows;
  assign a_row_then = !a_step ? a_row : a_last_row ? '0 : a_row + ROW_BITS'(1);
  assign a_phase_then = !a_accept ? a_phase : a_step ? '0 : a_phase + 2'd1;
  assign tile_accepted_then = tile_pending_then && !result_then && (!a_raw_then || a_phase_then == 2'd3) && a_row_then == a_rows_then;
  assign a_position_next = a_position + PIXEL_BITS'(1)
      + (a_ox == ai[CONV_OW_LSB+:12] ? PIXEL_BITS'(ai[CONV_OGAP_LSB+:6]) : '0);
  assign a_ox_next = a_ox == ai[CONV_OW_LSB+:12] ? '0 : a_ox + 12'd1;
  // Counters are those of the next instruction from its start, or from the end of the one before.
  assign a_load = array_start ? waiting == 2'd0 || (waiting == 2'd1 && a_last) : waiting == 2'd2 && a_last;
  assign a_next = array_start ? array_instruction : contexts[{1'b0, !head}];
  assign a_after = a_left - 18'(ROWS);

  // ---- The auxiliary unit's side.
  logic [511:0] xi;
  logic x_add, x_pinc;
  logic [18:0] x_pixels;
  logic [PIXEL_BITS-1:0] x_position;
  logic [11:0] x_ox;
  logic [7:0] x_groups;
  logic [2:0] x_segment;
  logic [1:0] x_phase;
  logic [ADDR-1:0] x_group;
  logic [PARAM_BITS-1:0] x_param;
  logic x_accept, x_step, x_last_segment, x_last_pixel, x_last;
  logic [6:0] x_channels, x_first;
  logic [5:0] x_lane0;
  logic [6:0] x_lane;
  assign xi = contexts[2];
  assign x_add = xi[3:0] == OP_ADD;
  assign x_pinc = x_add ? xi[ADD_PINC_LSB] : xi[AUX_PINC_LSB];
  assign x_accept = result;
  assign x_step = x_accept && (!xi[AUX_RAW_LSB] || x_phase == 2'd3);
  assign x_channels = x_groups == '0 ? 7'(xi[AUX_CL_LSB+:6]) + 7'd1 : 7'd64;
  assign x_first = 7'(x_segment) * 7'(COLS);
  assign x_last_segment = x_first + 7'(COLS) >= x_channels;
  assign x_last_pixel = x_pixels == 19'd1;
  assign x_last = x_step && x_last_segment && x_last_pixel && x_groups == '0;
  assign x_lane0 = x_add ? '0 : xi[AUX_LANE0_LSB+:6];
  assign x_lane = 7'(x_lane0) + x_first;
  assign result_segment = x_segment;
  assign result_accepted = x_step && x_last_segment;

  assign accepted = tile_pending || result;
  assign param_read = accepted;
  assign param_addr = a_accept ? a_param : x_pinc ? x_param + PARAM_BITS'(x_segment) : x_param;

  always_ff @(posedge clk) begin
    if (reset) begin
      start_to <= 1'b0;
      head <= 1'b0;
      waiting <= '0;
      a_row <= '0;
      a_phase <= '0;
      x_segment <= '0;
      x_phase <= '0;
      tile_accepted <= 1'b0;
    end else begin
      a_raw <= a_raw_then;
      a_rows <= a_rows_then;
      a_row <= a_row_then;
      a_phase <= a_phase_then;
      tile_accepted <= tile_accepted_then;
      waiting <= waiting + 2'(array_start) - 2'(a_last);
      if (array_start) begin
        contexts[{1'b0, start_to}] <= array_instruction;
        start_to <= !start_to;
      end
      if (a_step) begin
        a_position <= a_position_next;
        a_ox <= a_ox_next;
        if (a_last_row) begin
          a_tiles <= a_tiles - 10'd1;
          a_last_tile <= a_tiles == 10'd1;
          a_param <= a_param + PARAM_BITS'(1);
          a_lane <= a_lane + 6'(COLS);
          if (7'(a_lane) + 7'(COLS) >= 7'd64) a_group <= a_group + ai[CONV_OGS_LSB+:24];
          a_position <= a_first;
          a_ox <= a_first_ox;
          if (a_last_tile) begin
            a_position <= a_position_next;
            a_first <= a_position_next;
            a_ox <= a_ox_next;
            a_first_ox <= a_ox_next;
            a_tiles <= ai[CONV_CT_LSB+:10];
            a_last_tile <= ai[CONV_CT_LSB+:10] == '0;
            a_param <= PARAM_BITS'(ai[CONV_PAR_LSB+:16]);
            a_lane <= ai[CONV_LANE0_LSB+:6];
            a_group <= ai[CONV_OBASE_LSB+:24];
          end
        end
      end
      if (a_last) head <= !head;
      if (a_load || (tile_accepted && a_last_tile)) begin
        a_left <= a_load ? a_next[CONV_N_LSB+:18] : a_after;
        a_ends <= a_load ? a_next[CONV_N_LSB+:18] < 18'(ROWS) : a_after < 18'(ROWS);
      end
      if (a_load) begin
        a_tiles <= a_next[CONV_CT_LSB+:10];
        a_last_tile <= a_next[CONV_CT_LSB+:10] == '0;
        a_param <= PARAM_BITS'(a_next[CONV_PAR_LSB+:16]);
        a_lane <= a_next[CONV_LANE0_LSB+:6];
        a_group <= a_next[CONV_OBASE_LSB+:24];
        a_position <= PIXEL_BITS'(a_next[CONV_P0_LSB+:6]);
        a_first <= PIXEL_BITS'(a_next[CONV_P0_LSB+:6]);
        a_ox <= '0;
        a_first_ox <= '0;
      end

      if (x_accept) x_phase <= x_step ? '0 : x_phase + 2'd1;
      if (x_step) begin
        x_segment <= x_last_segment ? '0 : x_segment + 3'd1;
        if (x_last_segment) begin
          x_pixels <= x_pixels - 19'd1;
          x_position <= x_position + PIXEL_BITS'(1) + (x_ox == xi[AUX_OW_LSB+:12] ? PIXEL_BITS'(xi[AUX_OGAP_LSB+:6]) : '0);
          x_ox <= x_ox == xi[AUX_OW_LSB+:12] ? '0 : x_ox + 12'd1;
          if (x_last_pixel) begin
            x_pixels <= 19'(xi[AUX_N_LSB+:18]) + 19'd1;
            x_position <= PIXEL_BITS'(xi[AUX_P0_LSB+:6]);
            x_ox <= '0;
            x_groups <= x_groups - 8'd1;
            x_group <= x_group + xi[AUX_OGS_LSB+:24];
            if (x_pinc) x_param <= x_param + PARAM_BITS'(64 / COLS);
          end
        end
      end
      if (aux_start) begin
        contexts[2] <= aux_instruction;
        x_pixels <= 19'(aux_instruction[AUX_N_LSB+:18]) + 19'd1;
        // In `add`, where these fields are not, there are zeros.
        x_position <= PIXEL_BITS'(aux_instruction[AUX_P0_LSB+:6]);
        x_ox <= '0;
        x_groups <= aux_instruction[AUX_CG_LSB+:8];
        x_group <= aux_instruction[AUX_OBASE_LSB+:24];
        x_param <= PARAM_BITS'(aux_instruction[AUX_PAR_LSB+:16]);
      end
    end
  end

  // ---- The pipeline. What belongs to a vector as a whole:
  logic [Y:1] valid, ends;
  logic [Y:1][1:0] src;
  logic [2:1][1:0] phase;
  logic [Y:1][COUNT_BITS-1:0] elements;
  logic [W:2][6:0] lane;
  // Stage 1: dots, and the place in its parts.
  logic [COLS-1:0][31:0] dots;
  logic [31:0] row_sum;
  logic bipolar, param_zero;
  logic [PIXEL_BITS-1:0] position;
  logic [ADDR-1:0] group1;
  logic [5:0] lane_in1;
  logic [511:0] i1, ip, iy;
  logic [2:0] lgpo1;
  logic [5:0] in_word1;
  logic [6:0] lane1;
  // Stage 2: acc; from there on the address of the first plane.
  logic [COLS-1:0][31:0] acc;
  logic [COLS-1:0][31:0] scale;
  logic [Y-1:2][ADDR-1:0] address;
  logic [COLS-1:0][7:0] byte2;
  logic [Y:3][COLS-1:0][7:0] bytes;
  // Stage Y: y, which addresses the tables; the planes of the vector, the bank of the first.
  logic [COLS-1:0][8:0] y;
  logic [7:0] planes_y, written_y;
  logic [BANK_BITS-1:0] bank_y;
  logic [7:0][BANK_ROW-1:0] rows_y;
  logic [63:0] lanes;
  // Stage W: the byte, or what the table has for it; what is written.
  logic [COLS-1:0][7:0] y_w, bytes_w;
  logic table_w;
  logic [BANK_BITS-1:0] bank_w;

  assign i1 = contexts[src[1]];
  assign ip = contexts[src[Y-1]];
  assign iy = contexts[src[Y]];
  assign lgpo1 = i1[CONV_LGPO_LSB+:3];
  assign in_word1 = 6'((13'(position[5:0]) << 6) >> lgpo1);
  assign lane1 = 7'(in_word1) + 7'(lane_in1);

  always_ff @(posedge clk) begin
    if (reset) valid <= '0;
    else valid <= {valid[Y-1:1], accepted};
  end
  always_ff @(posedge clk) begin
    // Of what is not valid nothing is written: it need not stand still.
    ends <= {ends[Y-1:1], a_accept ? a_last : x_last};
    src <= {src[Y-1:1], a_accept ? {1'b0, head} : SRC_AUX};
    phase <= {phase[1], a_accept ? a_phase : x_phase};

    // Stage 1.
    for (int c = 0; c < COLS; c++) dots[c] <= a_accept ? tile_main[c] : result_sums[c];
    row_sum <= tile_main[COLS];
    bipolar <= a_accept && ai[CONV_WBIP_LSB];
    param_zero <= param_addr >= PARAM_BITS'(PARAM_VECTORS);
    if (a_accept) begin
      elements[1] <= a_last_tile ? COUNT_BITS'(ai[CONV_COL_LSB+:4]) + COUNT_BITS'(1) : COUNT_BITS'(COLS);
      position <= a_position;
      group1 <= a_group;
      lane_in1 <= a_lane;
    end else begin
      elements[1] <= x_last_segment ? COUNT_BITS'(x_channels - x_first) : COUNT_BITS'(COLS);
      position <= x_position;
      group1 <= x_lane[6] ? x_group + xi[AUX_OGS_LSB+:24] : x_group;
      lane_in1 <= x_lane[5:0];
    end

    // Stage 2.
    for (int c = 0; c < COLS; c++) begin
      acc[c] <= (bipolar ? (dots[c] << 1) - row_sum : dots[c]) + (param_zero ? '0 : param_data[c][31:0]);
      scale[c] <= param_zero ? '0 : param_data[c][63:32];
    end
    address[2] <= group1 + ADDR'(position >> lgpo1)
        + (i1[CONV_RAW_LSB] ? times({1'b0, phase[1]}, plane_stride(i1[CONV_OPS_LSB+:16]) << 3) : '0);
    for (int s = 2; s <= Y; s++) elements[s] <= elements[s-1];
    lane[2] <= lane1;
    for (int s = 3; s <= W; s++) lane[s] <= lane[s-1];

    // Stages 3 to Y: the requantizers, see below.
    for (int s = 3; s < Y; s++) address[s] <= address[s-1];
    bytes <= {bytes[Y-1:3], byte2};

    // Stage Y, but for the requantizers.
    bank_y <= address[Y-1][BANK_BITS-1:0];
    for (int p = 0; p < 8; p++) begin
      planes_y[p] <= ip[CONV_RAW_LSB] || 3'(p) <= ip[CONV_OBITS_LSB+:3];
      rows_y[p] <= BANK_ROW'((address[Y-1] + times(3'(p), plane_stride(ip[CONV_OPS_LSB+:16]))) >> BANK_BITS);
    end

    // Stage W.
    for (int c = 0; c < COLS; c++) y_w[c] <= iy[CONV_RAW_LSB] ? bytes[Y][c] : y[c][7:0];
    table_w <= iy[CONV_TEN_LSB] && !iy[CONV_RAW_LSB];
    bank_w <= bank_y;
    write_mask <= lanes << lane[Y];
    for (int b = 0; b < BANKS; b++) write_row[b] <= rows_y[plane(BANK_BITS'(b), bank_y)][BANK_ADDR-1:0];
  end
  always_ff @(posedge clk) begin
    if (reset) write <= '0;
    else begin
      for (int b = 0; b < BANKS; b++) write[b] <= valid[Y] && has_plane(BANK_BITS'(b), bank_y) && written_y[plane(BANK_BITS'(b), bank_y)];
    end
  end

  for (genvar c = 0; c < COLS; c++) begin : column
    assign byte2[c] = 8'(acc[c] >> {phase[2], 3'b0});
    npu_requantize requantize (
        .clk(clk),
        .acc(acc[c]),
        .scale(scale[c]),
        .zero(iy[CONV_ZERO_LSB+:9]),
        .lo(iy[CONV_LO_LSB+:9]),
        .hi(iy[CONV_HI_LSB+:9]),
        .y(y[c])
    );
    assign table_addr[c] = {iy[CONV_TSEL_LSB+:4], y[c][7:0]};
  end

  // Bank b gets plane (b - first bank).
  function automatic logic [2:0] plane(input logic [BANK_BITS-1:0] b, input logic [BANK_BITS-1:0] first);
    plane = 3'(b - first);
  endfunction
  function automatic logic has_plane(input logic [BANK_BITS-1:0] b, input logic [BANK_BITS-1:0] first);
    has_plane = 5'(BANK_BITS'(b - first)) < 5'd8;
  endfunction

  // Planes of the vector, every COLS lanes the same, so turned that its first element is in its lane; which lanes are written the mask says.
  logic [7:0][COLS-1:0] planes;
  always_comb begin
    for (int p = 0; p < 8; p++) written_y[p] = planes_y[p] && (rows_y[p] >> BANK_ADDR) == '0;
    lanes = '0;
    for (int c = 0; c < COLS; c++) lanes[c] = COUNT_BITS'(c) < elements[Y];
    bytes_w = table_w ? table_data : y_w;
    for (int c = 0; c < COLS; c++) begin
      for (int p = 0; p < 8; p++) planes[p][c] = bytes_w[COL_BITS'(c)-lane[W][COL_BITS-1:0]][p];
    end
    for (int b = 0; b < BANKS; b++) write_data[b] = {64 / COLS{planes[plane(BANK_BITS'(b), bank_w)]}};
  end

  // The last vector will be written POST_COMPLETES cycles from now.
  assign array_done = valid[W-POST_COMPLETES] && ends[W-POST_COMPLETES] && src[W-POST_COMPLETES] != SRC_AUX;
  assign aux_done = valid[W-POST_COMPLETES] && ends[W-POST_COMPLETES] && src[W-POST_COMPLETES] == SRC_AUX;
endmodule
