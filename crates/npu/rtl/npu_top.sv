// The chip: queues, units, memories and what connects them. docs/isa.md specifies it.
module npu_top
  import npu_pkg::*;
  import npu_types::*;
(
    input logic clk,
    input logic rst_n,
    input logic in_valid,
    output logic in_ready,
    input logic [63:0] in_data,
    output logic out_valid,
    input logic out_ready,
    output logic [63:0] out_data,
    output logic irq,
    input logic ctl_write,
    input logic ctl_read,
    input logic [19:0] ctl_addr,
    input logic [63:0] ctl_wdata,
    output logic [63:0] ctl_rdata
);
  logic run, clear;

  // ---- Queues.
  logic [3:0][15:0] entries;
  logic program_write, program_read;
  logic [18:0] program_addr;
  logic [63:0] program_data;
  logic [3:0] free, done, start;
  logic [255:0] fetch_instruction, drain_instruction;
  logic [511:0] array_instruction, aux_instruction;
  logic taken, sequencer_busy, all_ended, illegal, progress;
  logic [1:0] illegal_queue;
  logic [15:0] illegal_pc;
  logic [7:0] count;

  npu_control control (
      .clk(clk),
      .rst_n(rst_n),
      .ctl_write(ctl_write),
      .ctl_read(ctl_read),
      .ctl_addr(ctl_addr),
      .ctl_wdata(ctl_wdata),
      .ctl_rdata(ctl_rdata),
      .irq(irq),
      .run(run),
      .clear(clear),
      .entries(entries),
      .program_write(program_write),
      .all_ended(all_ended),
      .illegal(illegal),
      .illegal_queue(illegal_queue),
      .illegal_pc(illegal_pc),
      .progress(progress),
      .count(count)
  );

  npu_ram #(
      .WORDS(INSTRUCTIONS * INSTRUCTION_WORDS),
      .BITS(64)
  ) program_memory (
      .clk(clk),
      .read(program_read),
      .raddr(program_addr[PROGRAM_ADDR-1:0]),
      .rdata(program_data),
      .write(program_write && {13'b0, ctl_addr[18:0]} < 32'(INSTRUCTIONS * INSTRUCTION_WORDS)),
      .waddr(ctl_addr[PROGRAM_ADDR-1:0]),
      .wdata(ctl_wdata)
  );

  npu_sequencer sequencer (
      .clk(clk),
      .clear(clear),
      .run(run),
      .entries(entries),
      .program_read(program_read),
      .program_addr(program_addr),
      .program_data(program_data),
      .free(free),
      .done(done),
      .start(start),
      .fetch_instruction(fetch_instruction),
      .array_instruction(array_instruction),
      .aux_instruction(aux_instruction),
      .drain_instruction(drain_instruction),
      .taken(taken),
      .busy(sequencer_busy),
      .all_ended(all_ended),
      .illegal(illegal),
      .illegal_queue(illegal_queue),
      .illegal_pc(illegal_pc)
  );

  // ---- Activation memory.
  logic load_step, load_all_served, aux_step, aux_all_served, drain_req, drain_served;
  logic [ROWS-1:0] load_req, load_served;
  logic [ROWS-1:0][ADDR-1:0] load_addr;
  logic [ROWS-1:0][63:0] load_data;
  logic [TAPS-1:0] aux_req, aux_served;
  logic [TAPS-1:0][ADDR-1:0] aux_addr;
  logic [TAPS-1:0][63:0] aux_data;
  logic [ADDR-1:0] drain_addr;
  logic [63:0] drain_data;

  // Every bank takes a word of post or else of fetch.
  logic fetch_blocked, fetch_beyond, fetch_activations;
  logic [3:0] fetch_writes;
  logic [BANKS-1:0] post_write, write;
  logic [BANKS-1:0][BANK_ADDR-1:0] post_row, write_row;
  logic [BANKS-1:0][63:0] post_data, write_data, write_mask;
  logic [63:0] post_mask;
  logic [ADDR-1:0] fetch_addr;
  logic [BANK_BITS-1:0] fetch_bank;
  logic [BANK_ADDR-1:0] fetch_row;
  assign fetch_bank = fetch_addr[BANK_BITS-1:0];
  assign fetch_row = fetch_addr[BANK_BITS+:BANK_ADDR];
  assign fetch_blocked = post_write[fetch_bank];
  always_comb begin
    for (int b = 0; b < BANKS; b++) begin
      write[b] = post_write[b] || (fetch_activations && fetch_bank == BANK_BITS'(b) && !fetch_beyond);
      write_row[b] = post_write[b] ? post_row[b] : fetch_row;
      write_data[b] = post_write[b] ? post_data[b] : in_data;
      write_mask[b] = post_write[b] ? post_mask : '1;
    end
  end

  npu_activations activations (
      .clk(clk),
      .run(run),
      .load_valid(load_req),
      .load_addr(load_addr),
      .load_served(load_served),
      .load_all_served(load_all_served),
      .aux_valid(aux_req),
      .aux_addr(aux_addr),
      .aux_served(aux_served),
      .aux_all_served(aux_all_served),
      .drain_valid(drain_req),
      .drain_addr(drain_addr),
      .drain_served(drain_served),
      .load_data(load_data),
      .aux_data(aux_data),
      .drain_data(drain_data),
      .write(write),
      .write_row(write_row),
      .write_data(write_data),
      .write_mask(write_mask)
  );

  // ---- Weight memory: load before aux before fetch.
  logic load_weights, aux_weights, aux_granted;
  logic [WEIGHT_BITS-1:0] load_weight_addr, aux_weight_addr, weight_read_addr;
  logic [COLS-1:0][63:0] weight_data;
  logic [ADDR-COL_BITS-1:0] fetch_word;
  logic [COL_BITS-1:0] fetch_column;
  logic [WEIGHT_ADDR-1:0] weight_addr;
  assign aux_granted = aux_weights && !load_weights;
  assign fetch_word = fetch_addr[ADDR-1:COL_BITS];
  assign fetch_column = fetch_addr[COL_BITS-1:0];
  assign weight_read_addr = load_weights ? load_weight_addr : aux_weight_addr;
  assign weight_addr = load_weights || aux_weights ? weight_read_addr[WEIGHT_ADDR-1:0] : fetch_word[WEIGHT_ADDR-1:0];
  for (genvar c = 0; c < COLS; c++) begin : weights
    npu_ram_single #(
        .WORDS(WEIGHT_WORDS),
        .BITS(64)
    ) ram (
        .clk(clk),
        .read((load_weights || aux_weights) && weight_read_addr < WEIGHT_BITS'(WEIGHT_WORDS)),
        .write(fetch_writes[1] && fetch_column == COL_BITS'(c)
            && {1'b0, 24'(fetch_word)} < WEIGHT_BITS'(WEIGHT_WORDS)),
        .addr(weight_addr),
        .rdata(weight_data[c]),
        .wdata(in_data)
    );
  end

  // ---- Parameter memory and tables.
  logic param_read;
  logic [PARAM_BITS-1:0] param_addr;
  logic [COLS-1:0][63:0] param_data;
  logic [COLS-1:0][11:0] table_addr;
  logic [COLS-1:0][7:0] table_data;
  for (genvar c = 0; c < COLS; c++) begin : params
    npu_ram #(
        .WORDS(PARAM_VECTORS),
        .BITS(64)
    ) ram (
        .clk(clk),
        .read(param_read && param_addr < PARAM_BITS'(PARAM_VECTORS)),
        .raddr(param_addr[PARAM_ADDR-1:0]),
        .rdata(param_data[c]),
        .write(fetch_writes[2] && fetch_column == COL_BITS'(c)
            && 24'(fetch_word) < 24'(PARAM_VECTORS)),
        .waddr(fetch_word[PARAM_ADDR-1:0]),
        .wdata(in_data)
    );
  end
  for (genvar c = 0; c < COLS; c++) begin : tables
    logic [63:0] word;
    logic [2:0] entry;
    logic none;
    npu_ram #(
        .WORDS(TABLE_WORDS),
        .BITS(64)
    ) ram (
        .clk(clk),
        .read(1'b1),
        .raddr(table_addr[c][3+:TABLE_ADDR]),
        .rdata(word),
        .write(fetch_writes[3] && fetch_addr < ADDR'(TABLE_WORDS)),
        .waddr(fetch_addr[TABLE_ADDR-1:0]),
        .wdata(in_data)
    );
    always_ff @(posedge clk) begin
      entry <= table_addr[c][2:0];
      none <= 13'(table_addr[c]) >= 13'(TABLES * 256);
    end
    assign table_data[c] = none ? '0 : word[8*entry+:8];
  end

  // ---- Streams.
  logic fetch_busy, drain_busy;
  npu_fetch fetch (
      .clk(clk),
      .clear(clear),
      .run(run),
      .start(start[Q_FETCH]),
      .instruction(fetch_instruction),
      .busy(fetch_busy),
      .done(done[Q_FETCH]),
      .in_valid(in_valid),
      .in_ready(in_ready),
      .blocked(fetch_blocked),
      .weights_read(load_weights || aux_weights),
      .writes(fetch_writes),
      .activations(fetch_activations),
      .addr(fetch_addr),
      .beyond(fetch_beyond)
  );
  npu_drain drain (
      .clk(clk),
      .clear(clear),
      .run(run),
      .start(start[Q_DRAIN]),
      .instruction(drain_instruction),
      .busy(drain_busy),
      .done(done[Q_DRAIN]),
      .req_valid(drain_req),
      .req_addr(drain_addr),
      .served(drain_served),
      .data(drain_data),
      .out_valid(out_valid),
      .out_ready(out_ready),
      .out_data(out_data)
  );

  // ---- Load and array.
  logic load_busy;
  logic [15:0] in_use;
  logic [1:0] lg_slot;
  logic restart, take, take_asigned, take_wsigned, take_first, end_steps, end_last, full;
  logic [3:0] take_slot, end_slot, full_slot;
  logic [2:0] take_abits, take_wbits;
  logic [ROWS-1:0] row_write;
  logic [3:0] row_entry, column_entry;
  logic [ROWS-1:0][63:0] row_data;
  logic [63:0] row_mask;
  logic row_clear, column_write;
  logic [COLS-1:0][63:0] column_data;
  npu_load load (
      .clk(clk),
      .clear(clear),
      .start(start[Q_ARRAY]),
      .instruction(array_instruction),
      .busy(load_busy),
      .step(load_step),
      .req_valid(load_req),
      .req_addr(load_addr),
      .served(load_served),
      .all_served(load_all_served),
      .data(load_data),
      .weight_read(load_weights),
      .weight_addr(load_weight_addr),
      .weight_data(weight_data),
      .in_use(in_use),
      .lg_slot(lg_slot),
      .restart(restart),
      .take(take),
      .take_slot(take_slot),
      .take_abits(take_abits),
      .take_wbits(take_wbits),
      .take_asigned(take_asigned),
      .take_wsigned(take_wsigned),
      .take_first(take_first),
      .end_steps(end_steps),
      .end_slot(end_slot),
      .end_last(end_last),
      .full(full),
      .full_slot(full_slot),
      .row_write(row_write),
      .row_entry(row_entry),
      .row_data(row_data),
      .row_mask(row_mask),
      .row_clear(row_clear),
      .column_write(column_write),
      .column_entry(column_entry),
      .column_data(column_data)
  );

  logic pending, pending_then, tile_accepted, tile_accepted_then, issued, held;
  logic [ROW_BITS-1:0] tile_row;
  logic [COLS:0][31:0] tile_main;
  npu_array array (
      .clk(clk),
      .clear(clear),
      .lg_slot(lg_slot),
      .restart(restart),
      .take(take),
      .take_slot(take_slot),
      .take_abits(take_abits),
      .take_wbits(take_wbits),
      .take_asigned(take_asigned),
      .take_wsigned(take_wsigned),
      .take_first(take_first),
      .end_steps(end_steps),
      .end_slot(end_slot),
      .end_last(end_last),
      .full(full),
      .full_slot(full_slot),
      .in_use(in_use),
      .row_write(row_write),
      .row_entry(row_entry),
      .row_data(row_data),
      .row_mask(row_mask),
      .row_clear(row_clear),
      .column_write(column_write),
      .column_entry(column_entry),
      .column_data(column_data),
      .pending(pending),
      .pending_then(pending_then),
      .accepted_last_then(tile_accepted_then),
      .accepted_last(tile_accepted),
      .main_row(tile_row),
      .main(tile_main),
      .issued(issued),
      .held(held)
  );

  // ---- Auxiliary unit.
  logic aux_busy, result, result_then, result_accepted;
  logic [2:0] result_segment;
  logic [COLS-1:0][31:0] result_sums;
  npu_aux aux (
      .clk(clk),
      .clear(clear),
      .start(start[Q_AUX]),
      .instruction(aux_instruction),
      .complete(done[Q_AUX]),
      .busy(aux_busy),
      .step(aux_step),
      .req_valid(aux_req),
      .req_addr(aux_addr),
      .served(aux_served),
      .all_served(aux_all_served),
      .data(aux_data),
      .weight_wanted(aux_weights),
      .weight_granted(aux_granted),
      .weight_addr(aux_weight_addr),
      .weight_data(weight_data),
      .result(result),
      .result_then(result_then),
      .segment(result_segment),
      .sums(result_sums),
      .accepted_last(result_accepted)
  );

  // ---- Post unit.
  logic accepted;
  npu_post post (
      .clk(clk),
      .clear(clear),
      .array_start(start[Q_ARRAY]),
      .array_instruction(array_instruction),
      .aux_start(start[Q_AUX]),
      .aux_instruction(aux_instruction),
      .tile_pending(pending),
      .tile_pending_then(pending_then),
      .tile_row(tile_row),
      .tile_main(tile_main),
      .tile_accepted(tile_accepted),
      .tile_accepted_then(tile_accepted_then),
      .result(result),
      .result_then(result_then),
      .result_segment(result_segment),
      .result_sums(result_sums),
      .result_accepted(result_accepted),
      .accepted(accepted),
      .param_read(param_read),
      .param_addr(param_addr),
      .param_data(param_data),
      .table_addr(table_addr),
      .table_data(table_data),
      .write(post_write),
      .write_row(post_row),
      .write_data(post_data),
      .write_mask(post_mask),
      .array_done(done[Q_ARRAY]),
      .aux_done(done[Q_AUX])
  );

  assign free = {!drain_busy, !aux_busy, !load_busy, !fetch_busy};
  assign progress = sequencer_busy || load_step || aux_step || issued || accepted
      || (fetch_busy && (!in_valid || in_ready)) || out_valid;
  assign count = {taken, out_valid && out_ready, fetch_writes != '0, accepted, aux_step, load_step, held, issued};
endmodule
