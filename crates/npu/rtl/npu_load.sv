// The load unit: walks the tiles of a `conv` and fills the slots of the operand buffers. Section 6.5 of the specification.
module npu_load
  import npu_pkg::*;
  import npu_types::*;
(
    input logic clk,
    input logic clear,
    input logic start,
    // The instruction that starts.
    input logic [511:0] instruction,
    output logic busy,
    // A step is in the registers; requests of the first for the activation memory.
    output logic step,
    output logic [ROWS-1:0] req_valid,
    output logic [ROWS-1:0][ADDR-1:0] req_addr,
    input logic [ROWS-1:0] served,
    // None of the requests waits.
    input logic all_served,
    input logic [ROWS-1:0][63:0] data,
    // Weight memory.
    output logic weight_read,
    output logic [WEIGHT_BITS-1:0] weight_addr,
    input logic [COLS-1:0][63:0] weight_data,
    // Slots.
    input logic [15:0] in_use,
    output logic [1:0] lg_slot,
    output logic restart,
    output logic take,
    output logic [3:0] take_slot,
    output logic [2:0] take_abits,
    output logic [2:0] take_wbits,
    output logic take_asigned,
    output logic take_wsigned,
    output logic take_first,
    output logic end_steps,
    output logic [3:0] end_slot,
    output logic end_last,
    output logic full,
    output logic [3:0] full_slot,
    // Words for the buffers.
    output logic [ROWS-1:0] row_write,
    output logic [3:0] row_entry,
    output logic [ROWS-1:0][63:0] row_data,
    output logic [63:0] row_mask,
    output logic row_clear,
    output logic column_write,
    output logic [3:0] column_entry,
    output logic [COLS-1:0][63:0] column_data
);
  logic reset;
  npu_copies own_reset (.clk(clk), .reset(1'b0), .next(clear), .copies(reset));
  localparam int COUNT_BITS = $clog2(ROWS + 1);

  // The instruction. Fields that count are stored minus one, and stay so.
  logic [511:0] q;
  logic [2:0] abits, wbits, lgp, lgt;
  logic [ADDR-1:0] base, stride, gs;
  logic [11:0] w, h, ow;
  logic [5:0] kh, kw, cl;
  logic [2:0] sy, sx, dy, dx;
  logic [7:0] pad, cg;
  logic [15:0] rstep, kstep;
  logic [9:0] ct;
  // The least of 1, 2, 4, 8 planes that both operands fit in.
  logic [1:0] size;
  logic [2:0] start_bits;
  assign start_bits = instruction[CONV_ABITS_LSB+:3] | instruction[CONV_WBITS_LSB+:3];
  assign abits = q[CONV_ABITS_LSB+:3];
  assign wbits = q[CONV_WBITS_LSB+:3];
  assign lgp = q[CONV_LGP_LSB+:3];
  assign lgt = q[CONV_LGT_LSB+:3];
  assign base = q[CONV_BASE_LSB+:24];
  assign stride = plane_stride(q[CONV_PS_LSB+:16]);
  assign gs = q[CONV_GS_LSB+:24];
  assign w = q[CONV_W_LSB+:12];
  assign h = q[CONV_H_LSB+:12];
  assign ow = q[CONV_OW_LSB+:12];
  assign kh = q[CONV_KH_LSB+:6];
  assign kw = q[CONV_KW_LSB+:6];
  assign cl = q[CONV_CL_LSB+:6];
  assign sy = q[CONV_SY_LSB+:3];
  assign sx = q[CONV_SX_LSB+:3];
  assign dy = q[CONV_DY_LSB+:3];
  assign dx = q[CONV_DX_LSB+:3];
  assign pad = q[CONV_PAD_LSB+:8];
  assign cg = q[CONV_CG_LSB+:8];
  assign rstep = q[CONV_RSTEP_LSB+:16];
  assign kstep = q[CONV_KSTEP_LSB+:16];
  assign ct = q[CONV_CT_LSB+:10];

  // Row walker: where tap (0, 0) of the rows of the next tile of pixels lies.
  logic [YB-1:0] walk_y, line_y;
  logic [XB-1:0] walk_x, line_x;
  logic [ADDR-1:0] walk_at, line_at;
  logic [11:0] walk_ox;
  logic [18:0] walk_left;
  logic [COUNT_BITS-1:0] walk_count;
  logic walk_ready, walk_line_ends;
  logic [YB-1:0] next_y[ROWS], tile_y[ROWS];
  logic [XB-1:0] next_x[ROWS], tile_x[ROWS];
  logic [ADDR-1:0] next_at[ROWS], tile_at[ROWS];
  logic [COUNT_BITS-1:0] tile_count;
  logic take_rows;

  // Loops.
  logic left;
  logic [18:0] pixels;
  logic [9:0] tile;
  logic [7:0] k;
  logic [5:0] ky, kx;
  logic [3:0] s;
  logic [2:0] plane;
  logic first_of_instruction, first_of_pixels, first_of_tile, first_of_group;
  logic [8:0] kyd, kxd;
  logic [ADDR-1:0] tap_row, tap_at, group_base, plane_base;

  logic last_plane, last_kx, last_tap, last_k, last_of_group, last_of_tile, last_of_pixels, last_of_instruction;
  assign last_plane = plane == abits;
  assign last_kx = kx == kw;
  assign last_tap = last_kx && ky == kh;
  assign last_k = lgt != '0 || k == cg;
  assign last_of_group = last_plane && (lgt == '0 || last_tap || 5'(s) + 5'd1 == 5'd1 << lgt);
  assign last_of_tile = last_of_group && last_tap && last_k;
  assign last_of_pixels = last_of_tile && tile == ct;
  assign last_of_instruction = last_of_pixels && pixels <= 19'(ROWS);

  // The step registers: two, taken in turn. The one at `head` is requested; whether there is room for one more is known at the beginning of a
  // cycle, so that the loops do not wait for what is served.
  typedef struct packed {
    logic [ROWS-1:0][ADDR-1:0] addr;
    logic [ROWS-1:0] pad;
    logic [ROWS-1:0][5:0] rotate;
    // Where it goes; the lanes that it fills: from one on, before another.
    logic [3:0] entry;
    logic [5:0] lane;
    logic [7:0] lane_end;
    logic clears;
    logic ones;
    // The last step of its group, of the instruction; the group's slot and tag.
    logic last;
    logic ends;
    logic [3:0] slot;
    logic tag;
  } step_t;
  step_t steps[2];
  step_t current;
  logic [1:0][ROWS-1:0] requests;
  logic [1:0] step_count;
  logic head, tail;
  assign current = steps[head];
  assign tail = head ^ step_count[0];
  assign step = step_count != '0;
  assign req_valid = requests[head];
  assign req_addr = current.addr;
  logic step_finishes;
  assign step_finishes = step && all_served;

  // The newest group, of which weights are read: its slot and tag. Steps of the one before may still be in the registers. `steps_done`: its last
  // step has finished before its weights have.
  logic [3:0] group_slot, next_slot;
  logic [2:0] weight_plane;
  logic group_tag, steps_done, steps_done_ends;
  logic weights_left, weights_after, group_ends, steps_end;
  assign weight_read = weights_left;
  assign weights_after = weights_left && weight_plane != wbits;
  assign steps_end = step_finishes && current.last;
  assign group_ends = (steps_end && !(weights_after && current.tag == group_tag)) || (steps_done && !weights_after);

  // Whether the next step may be put into a step register in this cycle.
  logic free, differs, put;
  logic [3:0] slot;
  assign differs = first_of_instruction && size != lg_slot;
  assign slot = differs ? '0 : next_slot;
  assign free = differs ? in_use == '0 : !in_use[next_slot];
  assign put = busy && left && !step_count[1]
      && (!first_of_group || (!weights_after && !(first_of_pixels && !walk_ready) && free));
  assign take = put && first_of_group;
  assign restart = take && differs;
  assign take_rows = take && first_of_pixels;
  assign take_slot = slot;
  assign take_abits = abits;
  assign take_wbits = wbits;
  assign take_asigned = q[CONV_ASIGNED_LSB];
  assign take_wsigned = q[CONV_WSIGNED_LSB];
  assign take_first = first_of_tile;
  assign end_steps = put && last_of_group;
  assign end_slot = first_of_group ? slot : group_slot;
  assign end_last = last_of_tile;

  // The step itself: requests of all rows.
  logic [COUNT_BITS-1:0] count;
  logic [ROWS-1:0] in_input, valid;
  logic [ROWS-1:0][ADDR-1:0] address;
  logic [ROWS-1:0][5:0] rotate;
  logic [6:0] channels;
  logic [5:0] tap_lane;
  always_comb begin
    logic [YB-1:0] y;
    logic [XB-1:0] x;
    logic [ADDR-1:0] at;
    // A step that begins pixels takes the walker's rows; the register says so earlier than `take_rows`.
    count = first_of_pixels ? walk_count : tile_count;
    tap_lane = 6'((10'(s) << 6) >> lgt);
    channels = k == cg ? 7'(cl) + 7'd1 : 7'd64;
    for (int r = 0; r < ROWS; r++) begin
      y = (first_of_pixels ? next_y[r] : tile_y[r]) + YB'(kyd);
      x = (first_of_pixels ? next_x[r] : tile_x[r]) + XB'(kxd);
      at = (first_of_pixels ? next_at[r] : tile_at[r]) + tap_at;
      valid[r] = COUNT_BITS'(r) < count;
      // Negative coordinates are large ones.
      in_input[r] = y <= YB'(h) && x <= XB'(w);
      address[r] = plane_base + (at >> lgp);
      rotate[r] = 6'((12'(at[5:0]) << 6) >> lgp) - tap_lane;
    end
  end

  always_ff @(posedge clk) begin
    if (reset) begin
      busy <= 1'b0;
      step_count <= '0;
      head <= 1'b0;
      requests <= '0;
      left <= 1'b0;
      steps_done <= 1'b0;
      group_tag <= 1'b0;
      weights_left <= 1'b0;
      lg_slot <= 2'd3;
      next_slot <= '0;
      walk_left <= '0;
      walk_ready <= 1'b0;
    end else begin
      // Rows.
      if (!walk_ready && walk_left != '0) begin
        next_y[walk_count[ROW_BITS-1:0]] <= walk_y;
        next_x[walk_count[ROW_BITS-1:0]] <= walk_x;
        next_at[walk_count[ROW_BITS-1:0]] <= walk_at;
        walk_count <= walk_count + COUNT_BITS'(1);
        walk_left <= walk_left - 19'd1;
        walk_ready <= walk_left == 19'd1 || walk_count == COUNT_BITS'(ROWS - 1);
        if (walk_line_ends) begin
          walk_ox <= '0;
          walk_x <= line_x;
          walk_y <= line_y + YB'(sy);
          walk_at <= line_at + ADDR'(rstep);
          line_y <= line_y + YB'(sy);
          line_at <= line_at + ADDR'(rstep);
        end else begin
          walk_ox <= walk_ox + 12'd1;
          walk_x <= walk_x + XB'(sx);
          walk_at <= walk_at + ADDR'(sx);
        end
      end
      if (take_rows) begin
        walk_ready <= 1'b0;
        walk_count <= '0;
        tile_count <= walk_count;
        for (int r = 0; r < ROWS; r++) begin
          tile_y[r] <= next_y[r];
          tile_x[r] <= next_x[r];
          tile_at[r] <= next_at[r];
        end
      end

      // The step that is requested.
      requests[head] <= requests[head] & ~served;
      head <= head ^ step_finishes;
      step_count <= step_count + 2'(put) - 2'(step_finishes);
      // Weights.
      if (weights_left) begin
        weight_plane <= weight_plane + 3'd1;
        weights_left <= weights_after;
        if (!weight_addr[WEIGHT_BITS-1]) weight_addr <= weight_addr + WEIGHT_BITS'(1);
      end
      if (steps_end && !group_ends) begin
        steps_done <= 1'b1;
        steps_done_ends <= current.ends;
      end
      if (group_ends) begin
        steps_done <= 1'b0;
        if (steps_done ? steps_done_ends : current.ends) busy <= 1'b0;
      end

      // The next step.
      if (put) begin
        requests[tail] <= valid & in_input;
        steps[tail] <= '{
            addr: address,
            pad: valid & ~in_input,
            rotate: rotate,
            entry: 4'(end_slot << (differs ? size : lg_slot)) | {1'b0, plane},
            lane: tap_lane,
            lane_end: 8'(tap_lane) + 8'(channels),
            clears: s == '0,
            ones: pad[plane],
            last: last_of_group,
            ends: last_of_instruction,
            slot: end_slot,
            tag: first_of_group ^ group_tag
        };
        if (first_of_group) begin
          group_slot <= slot;
          group_tag <= !group_tag;
          weights_left <= 1'b1;
          weight_plane <= '0;
          if (differs) lg_slot <= size;
          next_slot <= slot == (4'hf >> size) ? '0 : slot + 4'd1;
          if (first_of_pixels) weight_addr <= {1'b0, q[CONV_WBASE_LSB+:24]};
        end

        // Onwards.
        first_of_instruction <= 1'b0;
        first_of_pixels <= last_of_pixels;
        first_of_tile <= last_of_tile;
        first_of_group <= last_of_group;
        plane <= last_plane ? '0 : plane + 3'd1;
        if (!last_plane) plane_base <= plane_base + stride;
        else if (!last_k) begin
          k <= k + 8'd1;
          group_base <= group_base + gs;
          plane_base <= group_base + gs;
        end else begin
          k <= '0;
          group_base <= base;
          plane_base <= base;
          s <= last_of_group ? '0 : s + 4'd1;
          if (last_tap) begin
            {ky, kx, kyd, kxd, tap_row, tap_at} <= '0;
            tile <= last_of_pixels ? '0 : tile + 10'd1;
            if (last_of_pixels) pixels <= pixels - 19'(ROWS);
            if (last_of_instruction) left <= 1'b0;
          end else if (last_kx) begin
            kx <= '0;
            kxd <= '0;
            ky <= ky + 6'd1;
            kyd <= kyd + 9'(dy);
            tap_row <= tap_row + ADDR'(kstep);
            tap_at <= tap_row + ADDR'(kstep);
          end else begin
            kx <= kx + 6'd1;
            kxd <= kxd + 9'(dx);
            tap_at <= tap_at + ADDR'(dx);
          end
        end
      end

      if (start) begin
        q <= instruction;
        size <= start_bits[2] ? 2'd3 : start_bits[1] ? 2'd2 : {1'b0, start_bits[0]};
        busy <= 1'b1;
        left <= 1'b1;
        pixels <= 19'(instruction[CONV_N_LSB+:18]) + 19'd1;
        {tile, k, ky, kx, s, plane, kyd, kxd, tap_row, tap_at} <= '0;
        group_base <= instruction[CONV_BASE_LSB+:24];
        plane_base <= instruction[CONV_BASE_LSB+:24];
        {first_of_instruction, first_of_pixels, first_of_tile, first_of_group} <= '1;
        walk_left <= 19'(instruction[CONV_N_LSB+:18]) + 19'd1;
        walk_ready <= 1'b0;
        walk_count <= '0;
        walk_ox <= '0;
        walk_y <= YB'($signed(instruction[CONV_Y0_LSB+:13]));
        line_y <= YB'($signed(instruction[CONV_Y0_LSB+:13]));
        walk_x <= XB'($signed(instruction[CONV_X0_LSB+:13]));
        line_x <= XB'($signed(instruction[CONV_X0_LSB+:13]));
        walk_at <= ADDR'($signed(instruction[CONV_LROW_LSB+:22]));
        line_at <= ADDR'($signed(instruction[CONV_LROW_LSB+:22]));
      end
    end
  end
  assign walk_line_ends = walk_ox == ow;

  // Landing. First cycle: words come from the memory; second: they are moved to their lanes and written.
  logic [ROWS-1:0] land1, pad1, land2;
  logic [ROWS-1:0][5:0] rotate1, rotate2;
  logic [ROWS-1:0][63:0] word2;
  logic [3:0] entry1, entry2;
  logic [63:0] mask1, mask2;
  logic clear1, clear2, ones1;
  // From the end of a group to its slot being full.
  logic [2:1] ends;
  logic [3:0] ends_slot1, ends_slot2;
  logic weight1, weight1_zero;
  logic [3:0] weight_entry1;

  always_ff @(posedge clk) begin
    if (reset) begin
      land1 <= '0;
      land2 <= '0;
      ends <= '0;
      weight1 <= 1'b0;
    end else begin
      land1 <= served | (step_finishes ? current.pad : '0);
      pad1 <= current.pad;
      rotate1 <= current.rotate;
      entry1 <= current.entry;
      for (int l = 0; l < 64; l++) mask1[l] <= 8'(current.lane) <= 8'(l) && 8'(l) < current.lane_end;
      clear1 <= current.clears;
      ones1 <= current.ones;
      land2 <= land1;
      rotate2 <= rotate1;
      for (int r = 0; r < ROWS; r++) word2[r] <= pad1[r] ? {64{ones1}} : data[r];
      entry2 <= entry1;
      mask2 <= mask1;
      clear2 <= clear1;
      ends <= {ends[1], group_ends};
      ends_slot1 <= steps_done ? group_slot : current.slot;
      ends_slot2 <= ends_slot1;
      weight1 <= weights_left;
      weight1_zero <= weight_addr >= WEIGHT_BITS'(WEIGHT_WORDS);
      weight_entry1 <= 4'(group_slot << lg_slot) | {1'b0, weight_plane};
    end
  end

  always_comb begin
    row_write = land2;
    row_entry = entry2;
    row_mask = mask2;
    row_clear = clear2;
    for (int r = 0; r < ROWS; r++) row_data[r] = 64'({word2[r], word2[r]} >> rotate2[r]);
    column_write = weight1;
    column_entry = weight_entry1;
    column_data = weight1_zero ? '0 : weight_data;
    full = ends[2];
    full_slot = ends_slot2;
  end
endmodule
