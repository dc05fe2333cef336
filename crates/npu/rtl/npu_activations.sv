// The activation memory: BANKS banks of SECTIONS single-ported macros, an arbiter for the requests of a read step, and the way of what was
// read to its request. Section 6.3 of the specification.
module npu_activations
  import npu_pkg::*;
  import npu_types::*;
(
    input logic clk,
    input logic run,
    // Requests of three units, in order of priority: rows of load's step, taps of aux's, the next word of drain. `all_served`: none waits.
    input logic [ROWS-1:0] load_valid,
    input logic [ROWS-1:0][ADDR-1:0] load_addr,
    output logic [ROWS-1:0] load_served,
    output logic load_all_served,
    input logic [TAPS-1:0] aux_valid,
    input logic [TAPS-1:0][ADDR-1:0] aux_addr,
    output logic [TAPS-1:0] aux_served,
    output logic aux_all_served,
    input logic drain_valid,
    input logic [ADDR-1:0] drain_addr,
    output logic drain_served,
    // In the next cycle: the word of every request that was served.
    output logic [ROWS-1:0][63:0] load_data,
    output logic [TAPS-1:0][63:0] aux_data,
    output logic [63:0] drain_data,
    // Bit b: bank b is written, at its row.
    input logic [BANKS-1:0] write,
    input logic [BANKS-1:0][BANK_ADDR-1:0] write_row,
    input logic [BANKS-1:0][63:0] write_data,
    input logic [BANKS-1:0][63:0] write_mask
);
  localparam int MACRO_WORDS = BANK_WORDS / SECTIONS;
  localparam int MACRO_BITS = $clog2(MACRO_WORDS);
  localparam int SECTION_BITS = SECTIONS > 1 ? $clog2(SECTIONS) : 1;

  function automatic logic [SECTION_BITS-1:0] section(input logic [BANK_ADDR-1:0] row);
    section = SECTIONS > 1 ? SECTION_BITS'(row >> MACRO_BITS) : '0;
  endfunction

  // Requests: which bank they ask, and whether what they ask for is in the memory.
  localparam int REQS = ROWS + TAPS + 1;
  logic [REQS-1:0] valid, served, exists;
  logic [REQS-1:0][ADDR-1:0] addr;
  logic [REQS-1:0][BANKS-1:0] asks;
  assign valid = {drain_valid, aux_valid, load_valid};
  assign addr = {drain_addr, aux_addr, load_addr};
  assign {drain_served, aux_served, load_served} = served;
  always_comb begin
    for (int k = 0; k < REQS; k++) begin
      exists[k] = (addr[k][ADDR-1:BANK_BITS] >> BANK_ADDR) == '0;
      for (int b = 0; b < BANKS; b++) asks[k][b] = valid[k] && addr[k][BANK_BITS-1:0] == BANK_BITS'(b);
    end
  end

  // The first request of the unit that request k is of.
  function automatic int unit_start(input int k);
    unit_start = k < ROWS ? 0 : k < ROWS + TAPS ? ROWS : ROWS + TAPS;
  endfunction

  // Pairs of a unit's requests are compared at once: the first for its bank is served, and those that want the same word with it. `parts`: a request
  // before this one wants another word of its bank.
  logic [REQS-1:0] first, shares, parts;
  always_comb begin
    logic same_bank, same_word;
    first = valid;
    parts = '0;
    for (int k = 0; k < REQS; k++) begin
      for (int e = unit_start(k); e < k; e++) begin
        same_bank = addr[e][BANK_BITS-1:0] == addr[k][BANK_BITS-1:0];
        same_word = addr[e] == addr[k];
        if (valid[e] && same_bank) first[k] = 1'b0;
        if (valid[e] && valid[k] && same_bank && !same_word) parts[k] = 1'b1;
      end
    end
    shares = first;
    for (int k = 0; k < REQS; k++) begin
      for (int e = unit_start(k); e < k; e++) begin
        same_word = addr[e] == addr[k];
        if (valid[k] && first[e] && same_word) shares[k] = 1'b1;
      end
    end
  end

  // Which banks the units before ask, and what waits for them; and what waits for its macro, which is written.
  logic [BANKS-1:0] of_load, of_aux;
  logic [REQS-1:0] waits;
  always_comb begin
    of_load = '0;
    of_aux = '0;
    for (int k = 0; k < ROWS; k++) of_load |= asks[k];
    for (int k = ROWS; k < ROWS + TAPS; k++) of_aux |= asks[k];
    waits = '0;
    for (int k = 0; k < REQS; k++) begin
      for (int b = 0; b < BANKS; b++) begin
        if (asks[k][b] && exists[k] && write[b] && section(write_row[b]) == section(addr[k][BANK_BITS+:BANK_ADDR])) waits[k] = 1'b1;
        if (asks[k][b] && (k >= ROWS && of_load[b] || k >= ROWS + TAPS && of_aux[b])) waits[k] = 1'b1;
      end
    end
  end
  assign served = shares & ~waits;
  assign load_all_served = ((parts | waits) & {{TAPS + 1{1'b0}}, {ROWS{1'b1}}}) == '0;
  assign aux_all_served = ((parts | waits) & {1'b0, {TAPS{1'b1}}, {ROWS{1'b0}}}) == '0;

  // Banks: the row that they read, for the unit that comes first.
  logic [BANKS-1:0] in_range;
  logic [BANKS-1:0][BANK_ADDR-1:0] row;
  always_comb begin
    row = '0;
    in_range = '0;
    for (int b = 0; b < BANKS; b++) begin
      for (int k = 0; k < REQS; k++) begin
        if (first[k] && asks[k][b] && (k < ROWS || !of_load[b]) && (k < ROWS + TAPS || !of_aux[b])) begin
          row[b] |= addr[k][BANK_BITS+:BANK_ADDR];
          in_range[b] |= exists[k];
        end
      end
    end
  end

  // Macros, and per bank which of them was read.
  logic [BANKS-1:0][63:0] bank_data;
  for (genvar b = 0; b < BANKS; b++) begin : bank
    logic [SECTIONS-1:0][63:0] rdata;
    logic [SECTION_BITS-1:0] from;
    logic zero;
    for (genvar s = 0; s < SECTIONS; s++) begin : macro
      logic reads, writes;
      assign writes = run && write[b] && section(write_row[b]) == SECTION_BITS'(s);
      assign reads = in_range[b] && section(row[b]) == SECTION_BITS'(s) && !writes;
      npu_ram_masked #(
          .WORDS(MACRO_WORDS),
          .BITS(64)
      ) ram (
          .clk(clk),
          .read(reads),
          .write(writes),
          .addr(writes ? write_row[b][MACRO_BITS-1:0] : row[b][MACRO_BITS-1:0]),
          .wdata(write_data[b]),
          .wmask(write_mask[b]),
          .rdata(rdata[s])
      );
    end
    always_ff @(posedge clk) begin
      from <= section(row[b]);
      zero <= !in_range[b];
    end
    assign bank_data[b] = zero ? '0 : rdata[from];
  end

  logic [REQS-1:0][BANK_BITS-1:0] bank_of;
  logic [REQS-1:0][63:0] data;
  always_ff @(posedge clk) begin
    for (int k = 0; k < REQS; k++) bank_of[k] <= addr[k][BANK_BITS-1:0];
  end
  for (genvar k = 0; k < REQS; k++) begin : request
    npu_select #(
        .COUNT(BANKS),
        .BITS(64)
    ) bank_word (
        .index(bank_of[k]),
        .words(bank_data),
        .word(data[k])
    );
  end
  assign {drain_data, aux_data, load_data} = data;
endmodule
