// The auxiliary unit: depthwise convolution, pooling, copies and additions, lane by lane; where there are fewer than 64 lanes they take turns.
// Section 6.8 of the specification.
module npu_aux
  import npu_pkg::*;
  import npu_types::*;
(
    input logic clk,
    input logic clear,
    input logic start,
    // The instruction that starts.
    input logic [511:0] instruction,
    // The last vector of the instruction is written.
    input logic complete,
    output logic busy,
    // A step is requested.
    output logic step,
    output logic [TAPS-1:0] req_valid,
    output logic [TAPS-1:0][ADDR-1:0] req_addr,
    input logic [TAPS-1:0] served,
    // None of the requests waits.
    input logic all_served,
    input logic [TAPS-1:0][63:0] data,
    // Weight memory.
    output logic weight_wanted,
    input logic weight_granted,
    output logic [WEIGHT_BITS-1:0] weight_addr,
    input logic [COLS-1:0][63:0] weight_data,
    // Results for the post unit.
    output logic result,
    // In the next cycle.
    output logic result_then,
    // COLS sums, those of the segment that is asked for.
    input logic [2:0] segment,
    output logic [COLS-1:0][31:0] sums,
    input logic accepted_last
);
  logic reset;
  npu_copies own_reset (.clk(clk), .reset(1'b0), .next(clear), .copies(reset));
  localparam int WORD_BITS = $clog2(TAP_WORDS + 1);
  // Log2 of lanes, and of turns.
  localparam int LG_LANES = $clog2(AUX_LANES);
  localparam int LG_TURNS = $clog2(TURNS);
  // Bits of a turn's number with one in front.
  localparam int PLACE_BITS = LG_TURNS + 1;

  // The instruction. Fields that count are stored minus one, and stay so.
  logic [511:0] q;
  logic add, weighted, maximum;
  logic [2:0] abits, bbits, top;
  logic asigned, bsigned;
  logic [ADDR-1:0] stride, gs, bstride, bgs;
  logic [11:0] w, h, ow;
  logic [5:0] kh, kw;
  logic [2:0] sy, sx;
  logic [7:0] pad, cg;
  logic [5:0] cl;
  logic [15:0] rstep, kstep, ma, mb;
  logic [2:0] lgs;
  logic [1:0] xrep, yrep;
  logic [17:0] n;
  assign abits = q[AUX_ABITS_LSB+:3];
  assign bbits = q[ADD_BBITS_LSB+:3];
  assign asigned = q[AUX_ASIGNED_LSB];
  assign bsigned = q[ADD_BSIGNED_LSB];
  assign stride = plane_stride(q[AUX_PS_LSB+:16]);
  assign gs = q[AUX_GS_LSB+:24];
  assign bstride = plane_stride(q[ADD_BPS_LSB+:16]);
  assign bgs = q[ADD_BGS_LSB+:24];
  assign w = q[AUX_W_LSB+:12];
  assign h = q[AUX_H_LSB+:12];
  assign ow = q[AUX_OW_LSB+:12];
  assign sy = q[AUX_SY_LSB+:3];
  assign sx = q[AUX_SX_LSB+:3];
  assign pad = q[AUX_PAD_LSB+:8];
  assign cg = q[AUX_CG_LSB+:8];
  assign cl = q[AUX_CL_LSB+:6];
  assign rstep = q[AUX_RSTEP_LSB+:16];
  assign kstep = q[AUX_KSTEP_LSB+:16];
  assign xrep = q[AUX_XREP_LSB+:2];
  assign yrep = q[AUX_YREP_LSB+:2];
  assign n = q[AUX_N_LSB+:18];
  // Of other instructions there is nothing to multiply.
  assign ma = add ? q[ADD_MA_LSB+:16] : '0;
  assign mb = add ? q[ADD_MB_LSB+:16] : '0;
  assign top = add && bbits > abits ? bbits : abits;

  // Loops.
  logic left;
  logic [7:0] group;
  logic [17:0] pixel;
  logic [5:0] by, bx;
  logic [2:0] plane;
  // Input position of the pixel: column, row, and the word of both.
  logic [11:0] ox;
  logic [1:0] xr, yr;
  logic [XB-1:0] x, x0;
  logic [YB-1:0] y;
  logic [ADDR-1:0] line, at0;
  // What addresses are sums of: groups, planes, blocks.
  logic [ADDR-1:0] group_a, group_b, plane_a, plane_b, top_a, top_b, block_row, block_at;
  logic [ADDR-1:0] three_rows;
  assign three_rows = ADDR'(kstep) + (ADDR'(kstep) << 1);

  logic last_plane, last_bx, last_by, last_block, last_pixel, last_group, last_of_word, many_blocks;
  assign last_plane = plane == '0;
  // Of blocks, `last_bx` and `last_by` are kept beside their coordinates.
  assign last_block = last_bx && last_by;
  assign many_blocks = kh > 6'd2 || kw > 6'd2;
  assign last_pixel = pixel == n;
  assign last_group = group == cg;
  assign last_of_word = last_plane && last_block;

  // The step registers: two, taken in turn. The one at `head` is requested once the lanes are ready for it; whether there is room for one more is
  // known at the beginning of a cycle, so that the loops do not wait for what is served.
  typedef struct packed {
    logic [TAPS-1:0][ADDR-1:0] addr;
    logic [TAPS-1:0] used;
    logic [TAPS-1:0] pad;
    logic ones;
    logic first;
    logic top;
    logic btop;
    logic ends;
    logic first_block;
    logic ends_word;
    // Turns that the step takes, minus one.
    logic [TURN_BITS-1:0] turns;
  } step_t;
  step_t steps[2];
  step_t current;
  logic [1:0][TAPS-1:0] requests;
  logic [1:0] step_count;
  logic head, tail;
  assign current = steps[head];
  assign tail = head ^ step_count[0];
  assign req_valid = requests[head] & {TAPS{step}};
  assign req_addr = current.addr;
  // Turns that the lanes have still to begin of the step that finished last.
  logic [TURN_BITS-1:0] turns, turns_left;
  logic step_finishes, lanes_ready;
  assign turns = last_group ? TURN_BITS'(cl >> LG_LANES) : TURN_BITS'(TURNS - 1);
  assign step_finishes = step && all_served;
  // What the next step reads lands no sooner than in the lanes' last turn.
  assign lanes_ready = step ? step_finishes && current.turns == '0 : turns_left >> 1 == '0;

  // Weights.
  logic weights_valid;
  logic [WORD_BITS-1:0] weight_word;
  logic [WEIGHT_BITS-1:0] weight_group;
  logic [WEIGHT_BITS-1:0] weight_next;
  logic weights_last;
  // Far beyond the memory it stays there.
  assign weight_next = weight_addr + WEIGHT_BITS'(weight_granted && !weight_addr[WEIGHT_BITS-1]);
  assign weight_wanted = busy && left && weighted && step_count == '0 && turns_left == '0 && !weights_valid;
  assign weights_last = weight_granted && weight_word == WORD_BITS'(TAP_WORDS - 1);

  // Words whose last step was put into the register and that post has not accepted.
  logic [1:0] in_flight;

  logic put;
  assign put = busy && left && !step_count[1] && (!weighted || weights_valid)
      && !(last_of_word && in_flight == 2'd2);

  // The step: taps that lie in kernel and input.
  logic [TAPS-1:0] valid, in_input, pads;
  logic [TAPS-1:0][ADDR-1:0] address;
  always_comb begin
    logic [ADDR-1:0] at;
    logic in_y, in_x;
    at = group_a + plane_a + (add ? ADDR'(pixel) : line + ADDR'($signed(x)) + block_at);
    for (int ty = 0; ty < 3; ty++) begin
      for (int tx = 0; tx < 3; tx++) begin
        in_y = y + YB'(by) + YB'(ty) <= YB'(h);
        in_x = x + XB'(bx) + XB'(tx) <= XB'(w);
        valid[3*ty+tx] = 7'(by) + 7'(ty) <= 7'(kh) && 7'(bx) + 7'(tx) <= 7'(kw);
        in_input[3*ty+tx] = valid[3*ty+tx] && in_y && in_x;
        address[3*ty+tx] = at + ADDR'(tx) + (ty == 0 ? '0 : ADDR'(kstep) << (ty - 1));
      end
    end
    if (add) begin
      valid = '0;
      valid[0] = plane <= abits;
      valid[1] = plane <= bbits;
      in_input = valid;
      address[1] = group_b + plane_b + ADDR'(pixel);
    end
    pads = valid & ~in_input;
  end

  // Of the instruction that starts: its top plane, its strides, its first row.
  logic [2:0] start_top;
  logic [ADDR-1:0] start_stride, start_bstride, start_line;
  logic start_counts;
  assign start_counts = instruction[3:0] != OP_ADD && !instruction[AUX_MODE_LSB+1];
  assign start_top = instruction[3:0] == OP_ADD && instruction[ADD_BBITS_LSB+:3] > instruction[AUX_ABITS_LSB+:3]
      ? instruction[ADD_BBITS_LSB+:3] : instruction[AUX_ABITS_LSB+:3];
  assign start_stride = plane_stride(instruction[AUX_PS_LSB+:16]);
  assign start_bstride = plane_stride(instruction[ADD_BPS_LSB+:16]);
  assign start_line = ADDR'($signed(instruction[AUX_LROW_LSB+:22])) - ADDR'($signed(instruction[AUX_X0_LSB+:13]));

  always_ff @(posedge clk) begin
    if (reset) begin
      busy <= 1'b0;
      left <= 1'b0;
      step <= 1'b0;
      step_count <= '0;
      head <= 1'b0;
      requests <= '0;
      turns_left <= '0;
      in_flight <= '0;
    end else begin
      requests[head] <= requests[head] & ~served;
      head <= head ^ step_finishes;
      step_count <= step_count + 2'(put) - 2'(step_finishes);
      step <= (step && !step_finishes) || (lanes_ready && (put || (step ? step_count[1] : step_count != '0)));
      if (turns_left != '0) turns_left <= turns_left - TURN_BITS'(1);
      if (step_finishes) turns_left <= current.turns;
      if (weight_granted) begin
        weight_word <= weights_last ? '0 : weight_word + WORD_BITS'(1);
        weight_addr <= weight_next;
        if (weights_last) weights_valid <= 1'b1;
      end
      if (put) begin
        requests[tail] <= in_input;
        steps[tail] <= '{
            addr: address,
            used: maximum ? in_input : valid,
            pad: pads,
            ones: pad[plane],
            first: plane == top,
            top: plane == abits,
            btop: plane == bbits,
            ends: last_plane,
            first_block: by == '0 && bx == '0,
            ends_word: last_of_word,
            turns: turns
        };

        // Onwards: planes, blocks, pixels, groups.
        plane <= last_plane ? top : plane - 3'd1;
        plane_a <= last_plane ? top_a : plane_a - stride;
        plane_b <= last_plane ? top_b : plane_b - bstride;
        if (last_plane) begin
          bx <= last_bx ? '0 : bx + 6'd3;
          last_bx <= last_bx ? kw < 6'd3 : 7'(bx) + 7'd6 > 7'(kw);
          block_at <= last_bx ? block_row + three_rows : block_at + ADDR'(3);
          if (last_bx) begin
            by <= by + 6'd3;
            last_by <= 7'(by) + 7'd6 > 7'(kh);
            block_row <= block_row + three_rows;
          end
          if (many_blocks) weights_valid <= 1'b0;
        end
        if (last_of_word) begin
          by <= '0;
          last_by <= kh < 6'd3;
          block_row <= '0;
          block_at <= '0;
          if (many_blocks) weight_addr <= weight_group;
          pixel <= pixel + 18'd1;
          ox <= ox + 12'd1;
          xr <= xr + 2'd1;
          if (xr == xrep) begin
            xr <= '0;
            x <= x + XB'(sx);
          end
          if (ox == ow) begin
            ox <= '0;
            xr <= '0;
            x <= x0;
            yr <= yr + 2'd1;
            if (yr == yrep) begin
              yr <= '0;
              y <= y + YB'(sy);
              line <= line + ADDR'(rstep);
            end
          end
          if (last_pixel) begin
            pixel <= '0;
            {ox, xr, yr} <= '0;
            x <= x0;
            y <= YB'($signed(q[AUX_Y0_LSB+:13]));
            line <= at0;
            group <= group + 8'd1;
            group_a <= group_a + gs;
            group_b <= group_b + bgs;
            weights_valid <= 1'b0;
            weight_addr <= weight_next;
            weight_group <= weight_next;
            if (last_group) left <= 1'b0;
          end
        end
      end
      in_flight <= in_flight + 2'(put && last_of_word) - 2'(accepted_last);
      if (complete) busy <= 1'b0;
      if (start) begin
        q <= instruction;
        add <= instruction[3:0] == OP_ADD;
        last_bx <= instruction[3:0] == OP_ADD || instruction[AUX_KW_LSB+:6] < 6'd3;
        last_by <= instruction[3:0] == OP_ADD || instruction[AUX_KH_LSB+:6] < 6'd3;
        lgs <= instruction[3:0] == OP_ADD ? '0 : instruction[AUX_LGS_LSB+:3];
        kh <= instruction[3:0] == OP_ADD ? '0 : instruction[AUX_KH_LSB+:6];
        kw <= instruction[3:0] == OP_ADD ? '0 : instruction[AUX_KW_LSB+:6];
        weighted <= instruction[3:0] != OP_ADD && instruction[AUX_MODE_LSB+:2] == 2'd0;
        maximum <= instruction[3:0] != OP_ADD && instruction[AUX_MODE_LSB+1];
        busy <= 1'b1;
        left <= 1'b1;
        {group, pixel, by, bx, ox, xr, yr, block_row, block_at} <= '0;
        plane <= start_top;
        plane_a <= times(start_top, start_stride);
        plane_b <= times(start_top, start_bstride);
        top_a <= times(start_top, start_stride);
        top_b <= times(start_top, start_bstride);
        x <= XB'($signed(instruction[AUX_X0_LSB+:13]));
        x0 <= XB'($signed(instruction[AUX_X0_LSB+:13]));
        y <= YB'($signed(instruction[AUX_Y0_LSB+:13]));
        line <= start_line;
        at0 <= start_line;
        group_a <= instruction[AUX_BASE_LSB+:24];
        group_b <= instruction[ADD_BBASE_LSB+:24];
        weights_valid <= 1'b0;
        weight_word <= '0;
        weight_addr <= {1'b0, instruction[AUX_WBASE_LSB+:24]};
        weight_group <= {1'b0, instruction[AUX_WBASE_LSB+:24]};
      end
    end
  end
  // Weight words arrive in the cycle after they were read. Instructions without weights begin with ones, those that add nothing up with zeros.
  logic [TAP_WORDS*COLS-1:0][63:0] taps_weights;
  logic arrives, arrives_zero;
  logic [WORD_BITS-1:0] arrives_word;
  always_ff @(posedge clk) begin
    if (reset) arrives <= 1'b0;
    else begin
      arrives <= weight_granted;
      arrives_word <= weight_word;
      arrives_zero <= weight_addr >= WEIGHT_BITS'(WEIGHT_WORDS);
      if (arrives) begin
        for (int k = 0; k < TAP_WORDS; k++) begin
          if (arrives_word == WORD_BITS'(k)) taps_weights[k*COLS+:COLS] <= arrives_zero ? '0 : weight_data;
        end
      end
      if (start) begin
        if (start_counts) taps_weights <= {TAP_WORDS * COLS * 8{8'd1}};
        else taps_weights <= '0;
      end
    end
  end

  // Stage 1: words arrive and are kept until the step is complete.
  logic [TAPS-1:0] served1, used1, pad1;
  logic ones1, finish1, first1, top1, btop1, end1, first_block1, end_word1;
  logic [TURN_BITS-1:0] turns1;
  logic [TAPS-1:0][63:0] taps;
  // Turns: the lanes' bits and weights of each. `top` is the first operand's sign plane, `btop` the second's.
  logic [TAPS-1:0] used_t;
  logic turn_t, first_t, top_t, btop_t, end_t, first_block_t, end_word_t;
  logic [TURN_BITS-1:0] number_t, turns_t;
  logic [TAPS-1:0][AUX_LANES-1:0] chosen;
  logic [TAPS-1:0][AUX_LANES*8-1:0] chosen_weights;
  // Stage 2: a plane of all taps; sums of three taps each.
  logic [TAPS-1:0] used2;
  logic [2:0] negative2;
  logic turn2, first2, top2, btop2, end2, first_block2, end_word2, last2;
  logic [TURN_BITS-1:0] number2;
  logic [TAPS-1:0][AUX_LANES-1:0] bits2;
  logic [TAPS-1:0][AUX_LANES*8-1:0] weights2;
  // Stage 3: the local sum.
  logic turn3, first3, end3, first_block3, end_word3, last3;
  logic [TURN_BITS-1:0] number3;
  // Stage 4: the main sum.
  logic end4, first_block4, end_word4, last4;
  logic [TURN_BITS-1:0] number4;

  always_ff @(posedge clk) begin
    if (reset) begin
      served1 <= '0;
      finish1 <= 1'b0;
      turn_t <= 1'b0;
      turn3 <= 1'b0;
      end4 <= 1'b0;
    end else begin
      served1 <= served;
      used1 <= current.used;
      pad1 <= current.pad;
      ones1 <= current.ones;
      finish1 <= step_finishes;
      {first1, top1, btop1, end1} <= {current.first, current.top, current.btop, current.ends};
      {first_block1, end_word1, turns1} <= {current.first_block, current.ends_word, current.turns};
      for (int t = 0; t < TAPS; t++) begin
        if (served1[t]) taps[t] <= data[t];
        else if (finish1 && pad1[t]) taps[t] <= {64{ones1}};
      end
      if (finish1) begin
        turn_t <= 1'b1;
        number_t <= '0;
        {used_t, first_t, top_t, btop_t, end_t, first_block_t, end_word_t, turns_t}
            <= {used1, first1, top1, btop1, end1, first_block1, end_word1, turns1};
      end else if (number_t == turns_t) turn_t <= 1'b0;
      else number_t <= number_t + TURN_BITS'(1);
      {turn3, first3, end3, first_block3, end_word3, last3, number3}
          <= {turn2, first2, end2, first_block2, end_word2, last2, number2};
      end4 <= turn3 && end3;
      {first_block4, end_word4, last4, number4} <= {first_block3, end_word3, last3, number3};
    end
  end

  // What the lanes get in a turn. In a packed input the words of a row, shifted by a pixel of 64 >> lgs lanes against each other, are the taps
  // of all its pixels: lanes come from two neighbouring turns' shares of two words, and then from between them.
  logic [PLACE_BITS-1:0] place, apart;
  assign place = PLACE_BITS'(number_t);
  assign apart = TURNS >> lgs != 0 ? PLACE_BITS'(TURNS >> lgs) : PLACE_BITS'(1);
  for (genvar r = 0; r < 3; r++) begin : row
    logic [2*TURNS-1:0][AUX_LANES-1:0] first_two, last_two;
    logic [AUX_LANES-1:0] previous, middle, following, first, third;
    logic [2*AUX_LANES-1:0] before_middle, after_middle;
    assign first_two = {taps[3*r+1], taps[3*r]};
    assign last_two = {taps[3*r+2], taps[3*r+1]};
    assign middle = last_two[place];
    assign previous = first_two[PLACE_BITS'(TURNS)+place-apart];
    assign following = last_two[place+apart];
    always_comb begin
      first = previous;
      third = following;
      before_middle = {middle, previous};
      after_middle = {following, middle};
      for (int k = 0; k < LG_LANES; k++) begin
        if (lgs == 3'(6 - k)) begin
          first = AUX_LANES'(before_middle >> (AUX_LANES - (1 << k)));
          third = AUX_LANES'(after_middle >> (1 << k));
        end
      end
    end
    assign chosen[3*r] = first;
    assign chosen[3*r+1] = middle;
    assign chosen[3*r+2] = third;
  end
  for (genvar t = 0; t < TAPS; t++) begin : tap
    logic [511:0] all;
    assign all = taps_weights[8*t+:8];
    if (TURNS == 1) begin : of_all
      assign chosen_weights[t] = all;
    end else begin : of_turn
      npu_select #(
          .COUNT(TURNS),
          .BITS(8 * AUX_LANES)
      ) weights (
          .index(number_t),
          .words(all),
          .word(chosen_weights[t])
      );
    end
  end

  // Choosing is a stage of its own where there is something to choose.
  if (TURNS == 1) begin : all_lanes
    assign {turn2, first2, top2, btop2, end2, first_block2, end_word2, last2, number2}
        = {turn_t, first_t, top_t, btop_t, end_t, first_block_t, end_word_t, 1'b1, number_t};
    assign {used2, bits2, weights2} = {used_t, chosen, chosen_weights};
  end else begin : in_turns
    always_ff @(posedge clk) begin
      if (reset) turn2 <= 1'b0;
      else begin
        turn2 <= turn_t;
        {first2, top2, btop2, end2, first_block2, end_word2, last2, number2}
            <= {first_t, top_t, btop_t, end_t, first_block_t, end_word_t, number_t == turns_t, number_t};
        {used2, bits2, weights2} <= {used_t, chosen, chosen_weights};
      end
    end
  end

  assign negative2 = add ? {1'b0, btop2 && bsigned, top2 && asigned} : {3{top2 && asigned}};

  // Result buffers. Post takes results from the first turn on, no faster than turns make them.
  logic [1:0] filled;
  logic write_to, read_from;
  logic fill;
  assign fill = end4 && end_word4;
  assign result = filled[read_from];
  logic [1:0] filled_then;
  logic read_then;
  assign read_then = read_from ^ accepted_last;
  assign result_then = filled_then[read_then];
  always_comb begin
    filled_then = filled;
    if (accepted_last) filled_then[read_from] = 1'b0;
    if (fill) filled_then[write_to] = 1'b1;
  end
  always_ff @(posedge clk) begin
    if (reset) begin
      filled <= '0;
      write_to <= 1'b0;
      read_from <= 1'b0;
    end else begin
      filled <= filled_then;
      read_from <= read_then;
      if (fill && last4) write_to <= !write_to;
    end
  end

  logic [AUX_LANES-1:0][31:0] held[2*TURNS];
  logic [AUX_LANES-1:0][31:0] totals, shown;
  logic [5:0] shown_lane;
  assign shown_lane = segment * 6'(COLS);
  always_ff @(posedge clk) if (fill) held[(PLACE_BITS'(write_to)<<LG_TURNS)|PLACE_BITS'(number4)] <= totals;
  assign shown = held[(PLACE_BITS'(read_from)<<LG_TURNS)|PLACE_BITS'(shown_lane>>LG_LANES)];
  always_comb for (int c = 0; c < COLS; c++) sums[c] = shown[shown_lane[LG_LANES-1:0]+LG_LANES'(c)];

  for (genvar l = 0; l < AUX_LANES; l++) begin : lane
    logic [TAPS-1:0] bits;
    logic [TAPS-1:0][7:0] weights;
    for (genvar t = 0; t < TAPS; t++) begin : tap
      assign bits[t] = bits2[t][l] && used2[t];
      assign weights[t] = weights2[t][8*l+:8];
    end
    npu_lane unit (
        .clk(clk),
        .maximum(maximum),
        .ma(ma),
        .mb(mb),
        .step_en(turn2),
        .step_turn(number2),
        .bits(bits),
        .counts(used2),
        .weights(weights),
        .first_plane(first2),
        .negative(negative2),
        .local_en(turn3),
        .local_turn(number3),
        .local_set(first3),
        .main_en(end4),
        .main_turn(number4),
        .main_set(first_block4),
        .total(totals[l])
    );
  end
endmodule
