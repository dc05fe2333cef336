// Operand buffers, the sequence of planes, and ROWS x (COLS + 1) elements; the last column sums the row itself. Section 6.6 of the specification.
module npu_array
  import npu_pkg::*;
  import npu_types::*;
(
    input logic clk,
    input logic clear,
    // Slots of the operand buffers. The load unit takes them, fills them, says what is in them.
    input logic [1:0] lg_slot,
    input logic restart,
    input logic take,
    input logic [3:0] take_slot,
    input logic [2:0] take_abits,
    input logic [2:0] take_wbits,
    input logic take_asigned,
    input logic take_wsigned,
    input logic take_first,
    input logic end_steps,
    input logic [3:0] end_slot,
    input logic end_last,
    input logic full,
    input logic [3:0] full_slot,
    output logic [15:0] in_use,
    // Words for the buffers.
    input logic [ROWS-1:0] row_write,
    input logic [3:0] row_entry,
    input logic [ROWS-1:0][63:0] row_data,
    input logic [63:0] row_mask,
    input logic row_clear,
    input logic column_write,
    input logic [3:0] column_entry,
    input logic [COLS-1:0][63:0] column_data,
    // Towards the post unit.
    output logic pending,
    // In the next cycle; whether post accepts its last vector, known at the beginning of a cycle: all elements hang on it.
    output logic pending_then,
    input logic accepted_last,
    input logic accepted_last_then,
    // The main accumulators of one row.
    input logic [ROW_BITS-1:0] main_row,
    output logic [COLS:0][31:0] main,
    output logic issued,
    output logic held
);
  logic reset;
  npu_copies own_reset (.clk(clk), .reset(1'b0), .next(clear), .copies(reset));
  // What is in the slots.
  logic [15:0] is_full;
  logic [15:0][2:0] abits, wbits;
  logic [15:0] asigned, wsigned, first, last;
  logic [3:0] slot, slot_next;
  logic advance;
  logic [3:0] slot_last;

  // The pair of planes to be issued.
  logic fresh;
  logic [2:0] i_reg, j_reg, i, j;
  logic [2:0] top_i, top_j;
  logic new_diagonal;
  logic en, issue, last_pair;

  // Controls of the stages.
  logic [3:1] v, end_group, group_first, group_last;
  logic v4, group_first4, group_last4;
  logic [3:1] set, double, subtract;

  // Whether the array is enabled is worked out in the cycle before, once for every row and once for the control.
  logic v4_then, group_first4_then;
  logic [ROWS:0] enabled;
  assign v4_then = en ? v[3] && end_group[3] : v4;
  assign group_first4_then = en ? group_first[3] : group_first4;
  npu_copies #(
      .COUNT(ROWS + 1),
      .AT_RESET(1'b1)
  ) enable (
      .clk(clk),
      .reset(reset),
      .next(!(v4_then && group_first4_then && pending_then && !accepted_last_then)),
      .copies(enabled)
  );
  assign en = enabled[ROWS];
  assign held = !en;
  assign pending_then = (en && v4 && group_last4) || (pending && !accepted_last);
  assign i = fresh ? top_i : i_reg;
  assign j = fresh ? top_j : j_reg;
  assign issue = en && is_full[slot];
  assign issued = issue;
  assign last_pair = i == '0 && j == '0;
  assign slot_last = 4'hf >> lg_slot;
  assign slot_next = slot == slot_last ? '0 : slot + 4'd1;
  assign advance = issue && last_pair;

  // Diagonals from the last to 0, the activation's plane descending on each.
  logic [3:0] d;
  logic [2:0] i_next, j_next;
  logic turn;
  always_comb begin
    turn = i == '0 || j == top_j;
    d = {1'b0, i} + {1'b0, j} - 4'd1;
    if (!turn) begin
      i_next = i - 3'd1;
      j_next = j + 3'd1;
    end else begin
      i_next = d > {1'b0, top_i} ? top_i : d[2:0];
      j_next = 3'(d - {1'b0, i_next});
    end
  end

  always_ff @(posedge clk) begin
    if (reset) begin
      in_use <= '0;
      is_full <= '0;
      slot <= '0;
      fresh <= 1'b1;
      new_diagonal <= 1'b0;
      v <= '0;
      v4 <= 1'b0;
      pending <= 1'b0;
    end else begin
      if (take) begin
        in_use[take_slot] <= 1'b1;
        abits[take_slot] <= take_abits;
        wbits[take_slot] <= take_wbits;
        asigned[take_slot] <= take_asigned;
        wsigned[take_slot] <= take_wsigned;
        first[take_slot] <= take_first;
      end
      if (end_steps) last[end_slot] <= end_last;
      if (full) is_full[full_slot] <= 1'b1;
      slot <= restart ? '0 : advance ? slot_next : slot;
      // A slot is full some cycles after it was taken: these are its own by then.
      top_i <= advance ? abits[slot_next] : abits[slot];
      top_j <= advance ? wbits[slot_next] : wbits[slot];
      if (issue) begin
        i_reg <= i_next;
        j_reg <= j_next;
        fresh <= last_pair;
        new_diagonal <= turn && !last_pair;
        if (last_pair) begin
          in_use[slot] <= 1'b0;
          is_full[slot] <= 1'b0;
        end
      end
      if (en) begin
        v <= {v[2:1], issue};
        end_group <= {end_group[2:1], last_pair};
        group_first <= {group_first[2:1], first[slot]};
        group_last <= {group_last[2:1], last[slot]};
        group_last4 <= group_last[3];
        set <= {set[2:1], fresh};
        double <= {double[2:1], new_diagonal};
        subtract <= {subtract[2:1], (asigned[slot] && i == top_i) ^ (wsigned[slot] && j == top_j)};
      end
      v4 <= v4_then;
      group_first4 <= group_first4_then;
      pending <= pending_then;
    end
  end

  // Buffers and operand registers: a row and a column each have their own.
  logic [3:0] row_read, column_read;
  logic [ROWS-1:0][63:0] x;
  logic [COLS-1:0][63:0] w;
  assign row_read = 4'(slot << lg_slot) | {1'b0, i};
  assign column_read = 4'(slot << lg_slot) | {1'b0, j};

  logic [ROWS-1:0][COLS:0][31:0] mains;
  npu_select #(
      .COUNT(ROWS),
      .BITS((COLS + 1) * 32)
  ) row_of_main (
      .index(main_row),
      .words(mains),
      .word(main)
  );

  for (genvar r = 0; r < ROWS; r++) begin : row
    logic [63:0] buffer[BUFFER_PLANES];
    always_ff @(posedge clk) begin
      if (row_write[r])
        buffer[row_entry] <= (row_clear ? '0 : buffer[row_entry] & ~row_mask) | (row_data[r] & row_mask);
      if (issue) x[r] <= buffer[row_read];
    end
    for (genvar c = 0; c <= COLS; c++) begin : column
      npu_element element (
          .clk(clk),
          .clear(reset),
          .en(enabled[r]),
          .x(x[r]),
          .w(c == COLS ? '1 : w[c == COLS ? 0 : c]),
          .count_subtract(subtract[2]),
          .local_en(v[3]),
          .local_set(set[3]),
          .local_double(double[3]),
          .local_subtract(subtract[3]),
          .local_last(end_group[3]),
          .main_en(v4),
          .main_set(group_first4),
          .main(mains[r][c])
      );
    end
  end

  for (genvar c = 0; c < COLS; c++) begin : column
    logic [63:0] buffer[BUFFER_PLANES];
    always_ff @(posedge clk) begin
      if (column_write) buffer[column_entry] <= column_data[c];
      if (issue) w[c] <= buffer[column_read];
    end
  end
endmodule
