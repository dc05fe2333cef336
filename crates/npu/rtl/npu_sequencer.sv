// Instruction fetch, decoding, the four queues and what they wait for. Sections 6.1 and 6.2 of the specification.
module npu_sequencer
  import npu_pkg::*;
  import npu_types::*;
(
    input logic clk,
    input logic clear,
    input logic run,
    input logic [3:0][15:0] entries,
    // Instruction memory.
    output logic program_read,
    output logic [18:0] program_addr,
    input logic [63:0] program_data,
    // What the units say, by queue: whether they can take an instruction, and that one is complete.
    input logic [3:0] free,
    input logic [3:0] done,
    output logic [3:0] start,
    output logic [255:0] fetch_instruction,
    output logic [511:0] array_instruction,
    output logic [511:0] aux_instruction,
    output logic [255:0] drain_instruction,
    output logic taken,
    output logic busy,
    output logic all_ended,
    output logic illegal,
    output logic [1:0] illegal_queue,
    output logic [15:0] illegal_pc
);
  // `next` of each queue, and where it came from.
  logic [3:0][7:0][63:0] next;
  logic [3:0] valid, legal, is_end, ended;
  logic [3:0][15:0] pc;
  logic [3:0][15:0] completed;
  logic [1:0] in_flight;

  // The fetch: eight words, one after another, each a cycle after its address.
  logic active;
  logic [1:0] queue, granted;
  logic [3:0] word;
  logic grant, legal_so_far, legal_now;
  logic [3:0] requests;
  assign requests = ~valid & ~ended;
  assign grant = !active && requests != '0;
  assign busy = active || grant;
  assign granted = requests[0] ? 2'd0 : requests[1] ? 2'd1 : requests[2] ? 2'd2 : 2'd3;
  assign program_read = busy;
  assign program_addr = grant ? {pc[granted], 3'd0} : {pc[queue], word[2:0]};
  assign taken = active && word == 4'd8;

  // What is legal. Word 0 is looked at in the cycle after it arrives, when its opcode is known; the others at once, with a mask that was made before. Word 1 is the same of all but `end`:
  // what they wait for.
  logic [3:0] opcode;
  logic [2:0] arriving;
  logic [63:0] head, unused;
  logic beyond, head_legal, word_legal;
  assign arriving = 3'(word - 4'd1);

  // Bits of a word that an instruction does not use.
  function automatic logic [63:0] zeros(input logic [3:0] op, input logic [2:0] number);
    case (op)
      OP_END: zeros = ~END_USED[64*number+:64];
      OP_FETCH: zeros = ~FETCH_USED[64*number+:64];
      OP_CONV: zeros = ~CONV_USED[64*number+:64];
      OP_AUX: zeros = ~AUX_USED[64*number+:64];
      OP_ADD: zeros = ~ADD_USED[64*number+:64];
      OP_DRAIN: zeros = ~DRAIN_USED[64*number+:64];
      default: zeros = '1;
    endcase
  endfunction

  // Values of fields that are legal. What `conv`, `aux` and `add` share lies in one place.
  logic places, known, values_legal;
  assign places = opcode == OP_CONV || opcode == OP_AUX;
  always_comb begin
    case (opcode)
      OP_END: known = 1'b1;
      OP_FETCH: known = queue == 2'(Q_FETCH);
      OP_CONV: known = queue == 2'(Q_ARRAY);
      OP_AUX, OP_ADD: known = queue == 2'(Q_AUX);
      OP_DRAIN: known = queue == 2'(Q_DRAIN);
      default: known = 1'b0;
    endcase
    head_legal = known && !beyond && (head & zeros(opcode, 3'd0)) == '0;
    if ((places || opcode == OP_ADD) && $signed(head[CONV_LO_LSB+:9]) > $signed(head[CONV_HI_LSB+:9])) head_legal = 1'b0;
    if (places && head[CONV_LGPO_LSB+:3] == 3'd7) head_legal = 1'b0;
    if (opcode == OP_CONV) begin
      if (head[CONV_LGP_LSB+:3] == 3'd7 || head[CONV_LGT_LSB+:3] > 3'd4) head_legal = 1'b0;
      if (head[CONV_WBIP_LSB] && (head[CONV_WBITS_LSB+:3] != '0 || head[CONV_WSIGNED_LSB])) head_legal = 1'b0;
    end
    if (opcode == OP_AUX) begin
      if (head[AUX_MODE_LSB+:2] == 2'd3 || head[AUX_LGS_LSB+:3] == 3'd7) head_legal = 1'b0;
      if (head[AUX_LGS_LSB+:3] != '0 && head[AUX_MODE_LSB+1]) head_legal = 1'b0;
    end

    values_legal = 1'b1;
    case (arriving)
      3'd3:
      if (opcode == OP_AUX && head[AUX_LGS_LSB+:3] != '0) begin
        if (program_data[AUX_KH_LSB-192+:6] != 6'd2 || program_data[AUX_KW_LSB-192+:6] != 6'd2) values_legal = 1'b0;
      end
      3'd4: if (opcode == OP_CONV && 5'(program_data[CONV_COL_LSB-256+:4]) >= 5'(COLS)) values_legal = 1'b0;
      default: ;
    endcase
    word_legal = values_legal && (program_data & unused) == '0;
    legal_now = word_legal && (arriving == 3'd1 ? head_legal : legal_so_far);
  end

  // Starting: all counts are reached, which is worked out in the cycle before. What an instruction waits for is there long before the rest of it.
  logic [3:0] reached, reached_then;
  logic [3:0][15:0] ahead;
  always_comb begin
    for (int q = 0; q < 4; q++) begin
      reached_then[q] = 1'b1;
      for (int k = 0; k < 4; k++) begin
        ahead[k] = completed[k] - next[q][1][16*k+:16] + 16'(done[k]);
        if (ahead[k][15]) reached_then[q] = 1'b0;
      end
    end
  end
  // `end` waits for its queue to be empty; the others for their unit.
  logic [3:0] can, consume;
  always_comb begin
    can = free;
    if (in_flight == 2'd2) can[Q_ARRAY] = 1'b0;
    if (is_end[Q_ARRAY]) can[Q_ARRAY] = in_flight == '0;
  end
  assign consume = valid & legal & can & (is_end | reached);
  assign start = consume & ~is_end;
  assign all_ended = ended == '1;
  assign illegal = (valid & ~legal) != '0;
  always_comb begin
    illegal_queue = 2'd3;
    for (int q = 2; q >= 0; q--) if (valid[q] && !legal[q]) illegal_queue = 2'(q);
    illegal_pc = pc[illegal_queue] - 16'd1;
  end

  always_ff @(posedge clk) begin
    if (clear) begin
      valid <= '0;
      legal <= '0;
      is_end <= '0;
      ended <= '0;
      pc <= entries;
      completed <= '0;
      in_flight <= '0;
      active <= 1'b0;
    end else if (run) begin
      reached <= reached_then;
      for (int q = 0; q < 4; q++) begin
        completed[q] <= completed[q] + 16'(done[q]);
        if (consume[q]) begin
          valid[q] <= 1'b0;
          if (is_end[q]) ended[q] <= 1'b1;
        end
      end
      in_flight <= in_flight + 2'(start[Q_ARRAY]) - 2'(done[Q_ARRAY]);
      if (grant) begin
        active <= 1'b1;
        queue <= granted;
        word <= 4'd1;
        beyond <= {16'b0, pc[granted]} >= 32'(INSTRUCTIONS);
      end
      if (active) begin
        word <= word + 4'd1;
        next[queue][arriving] <= program_data;
        if (arriving == '0) begin
          head <= program_data;
          opcode <= program_data[3:0];
          unused <= program_data[3:0] == OP_END ? ~END_USED[127:64] : ~CONV_USED[127:64];
        end else begin
          unused <= zeros(opcode, arriving + 3'd1);
          // A place in a word is one of 2^lgpo.
          if (arriving == 3'd4 && places) unused[CONV_P0_LSB-320+:6] <= 6'h3f << head[CONV_LGPO_LSB+:3];
        end
        legal_so_far <= legal_now;
        if (taken) begin
          active <= 1'b0;
          valid[queue] <= 1'b1;
          legal[queue] <= legal_now;
          is_end[queue] <= opcode == OP_END;
          pc[queue] <= pc[queue] + 16'd1;
        end
      end
    end
  end

  assign fetch_instruction = next[Q_FETCH][3:0];
  assign array_instruction = next[Q_ARRAY];
  assign aux_instruction = next[Q_AUX];
  assign drain_instruction = next[Q_DRAIN][3:0];
endmodule
