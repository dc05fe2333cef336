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
  logic grant, legal_so_far;
  logic [3:0] requests;
  assign requests = ~valid & ~ended;
  assign grant = run && !active && requests != '0;
  assign busy = active || grant;
  assign granted = requests[0] ? 2'd0 : requests[1] ? 2'd1 : requests[2] ? 2'd2 : 2'd3;
  assign program_read = run && busy;
  assign program_addr = grant ? {pc[granted], 3'd0} : {pc[queue], word[2:0]};
  assign taken = run && active && word == 4'd8;

  // What is legal in the word that arrives, number word - 1.
  logic [3:0] opcode, op;
  logic [2:0] arriving;
  logic [511:0] used;
  logic known, word_legal, beyond;
  assign arriving = 3'(word - 4'd1);
  assign op = arriving == '0 ? program_data[3:0] : opcode;

  // Values of fields that are legal; word 0 lies in `next` when a later one arrives. What `conv`, `aux` and `add` share lies in one place.
  logic computes, places, values_legal;
  logic [2:0] lgs, lgpo;
  assign lgs = next[queue][0][AUX_LGS_LSB+:3];
  assign lgpo = next[queue][0][CONV_LGPO_LSB+:3];
  assign places = op == OP_CONV || op == OP_AUX;
  assign computes = places || op == OP_ADD;
  always_comb begin
    values_legal = 1'b1;
    case (arriving)
      3'd0: begin
        if (computes && $signed(program_data[CONV_LO_LSB+:9]) > $signed(program_data[CONV_HI_LSB+:9])) values_legal = 1'b0;
        if (places && program_data[CONV_LGPO_LSB+:3] == 3'd7) values_legal = 1'b0;
        if (op == OP_CONV) begin
          if (program_data[CONV_LGP_LSB+:3] == 3'd7 || program_data[CONV_LGT_LSB+:3] > 3'd4) values_legal = 1'b0;
          if (program_data[CONV_WBIP_LSB] && (program_data[CONV_WBITS_LSB+:3] != '0 || program_data[CONV_WSIGNED_LSB]))
            values_legal = 1'b0;
        end
        if (op == OP_AUX) begin
          if (program_data[AUX_MODE_LSB+:2] == 2'd3 || program_data[AUX_LGS_LSB+:3] == 3'd7) values_legal = 1'b0;
          if (program_data[AUX_LGS_LSB+:3] != '0 && program_data[AUX_MODE_LSB+1]) values_legal = 1'b0;
        end
      end
      3'd3:
      if (op == OP_AUX && lgs != '0) begin
        if (program_data[AUX_KH_LSB-192+:6] != 6'd2 || program_data[AUX_KW_LSB-192+:6] != 6'd2) values_legal = 1'b0;
      end
      3'd4: if (op == OP_CONV && 5'(program_data[CONV_COL_LSB-256+:4]) >= 5'(COLS)) values_legal = 1'b0;
      3'd5: if (places && (program_data[CONV_P0_LSB-320+:6] >> lgpo) != '0) values_legal = 1'b0;
      default: ;
    endcase
  end

  always_comb begin
    used = '0;
    known = 1'b0;
    case (op)
      OP_END: begin
        used = END_USED;
        known = 1'b1;
      end
      OP_FETCH: begin
        used = FETCH_USED;
        known = queue == 2'(Q_FETCH);
      end
      OP_CONV: begin
        used = CONV_USED;
        known = queue == 2'(Q_ARRAY);
      end
      OP_AUX: begin
        used = AUX_USED;
        known = queue == 2'(Q_AUX);
      end
      OP_ADD: begin
        used = ADD_USED;
        known = queue == 2'(Q_AUX);
      end
      OP_DRAIN: begin
        used = DRAIN_USED;
        known = queue == 2'(Q_DRAIN);
      end
      default: ;
    endcase
    word_legal = known && !beyond && values_legal && (program_data & ~used[64*arriving+:64]) == '0;
  end

  // Starting: all counts are reached.
  logic [3:0] reached;
  logic [3:0][15:0] ahead;
  always_comb begin
    for (int q = 0; q < 4; q++) begin
      reached[q] = 1'b1;
      for (int k = 0; k < 4; k++) begin
        ahead[k] = completed[k] - next[q][1][16*k+:16];
        if (ahead[k][15]) reached[q] = 1'b0;
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
  assign consume = {4{run}} & valid & legal & can & (is_end | reached);
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
        if (arriving == '0) opcode <= program_data[3:0];
        legal_so_far <= word_legal && (arriving == '0 || legal_so_far);
        if (taken) begin
          active <= 1'b0;
          valid[queue] <= 1'b1;
          legal[queue] <= word_legal && legal_so_far;
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
