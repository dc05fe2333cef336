// The activation memory: BANKS banks of SECTIONS single-ported macros, an arbiter for the requests of a read step, and the way of what was
// read to its request. Section 6.3 of the specification.
module npu_activations
  import npu_pkg::*;
  import npu_types::*;
(
    input logic clk,
    input logic run,
    // Requests of three units, in order of priority: rows of load's step, taps of aux's, the next word of drain.
    input logic [ROWS-1:0] load_valid,
    input logic [ROWS-1:0][ADDR-1:0] load_addr,
    output logic [ROWS-1:0] load_served,
    input logic [TAPS-1:0] aux_valid,
    input logic [TAPS-1:0][ADDR-1:0] aux_addr,
    output logic [TAPS-1:0] aux_served,
    input logic drain_valid,
    input logic [ADDR-1:0] drain_addr,
    output logic drain_served,
    // In the next cycle: the word of every request that was served.
    output logic [ROWS-1:0][63:0] load_data,
    output logic [TAPS-1:0][63:0] aux_data,
    output logic [63:0] drain_data,
    // Bit b: bank b is written, at its row.
    input logic [BANKS-1:0] write,
    input logic [BANKS-1:0][BANK_ROW-1:0] write_row,
    input logic [BANKS-1:0][63:0] write_data,
    input logic [BANKS-1:0][63:0] write_mask
);
  localparam int MACRO_WORDS = BANK_WORDS / SECTIONS;
  localparam int MACRO_BITS = $clog2(MACRO_WORDS);
  localparam int SECTION_BITS = SECTIONS > 1 ? $clog2(SECTIONS) : 1;
  localparam int IN_RANGE = $clog2(BANK_WORDS);

  function automatic logic [SECTION_BITS-1:0] section(input logic [BANK_ROW-1:0] row);
    section = SECTIONS > 1 ? SECTION_BITS'(row >> MACRO_BITS) : '0;
  endfunction

  // The first request of each bank, and whose it is.
  localparam int REQS = ROWS + TAPS + 1;
  logic [REQS-1:0] valid, served;
  logic [REQS-1:0][ADDR-1:0] addr;
  logic [BANKS-1:0] asked, ok, in_range, write_hits;
  logic [BANKS-1:0][1:0] unit;
  logic [BANKS-1:0][BANK_ROW-1:0] row;
  assign valid = {drain_valid, aux_valid, load_valid};
  assign addr = {drain_addr, aux_addr, load_addr};
  assign {drain_served, aux_served, load_served} = served;

  function automatic logic [1:0] unit_of(input int request);
    unit_of = request < ROWS ? 2'd0 : request < ROWS + TAPS ? 2'd1 : 2'd2;
  endfunction

  always_comb begin
    asked = '0;
    row = '0;
    unit = '0;
    for (int k = REQS - 1; k >= 0; k--) begin
      if (valid[k]) begin
        asked[addr[k][BANK_BITS-1:0]] = 1'b1;
        row[addr[k][BANK_BITS-1:0]] = addr[k][ADDR-1:BANK_BITS];
        unit[addr[k][BANK_BITS-1:0]] = unit_of(k);
      end
    end
    for (int b = 0; b < BANKS; b++) begin
      in_range[b] = (row[b] >> IN_RANGE) == '0;
      write_hits[b] = write[b] && (write_row[b] >> IN_RANGE) == '0;
      ok[b] = asked[b] && !(write_hits[b] && in_range[b] && section(write_row[b]) == section(row[b]));
    end
    // Together with it all requests of the same unit for the same word.
    for (int k = 0; k < REQS; k++) begin
      served[k] = valid[k] && ok[addr[k][BANK_BITS-1:0]] && unit[addr[k][BANK_BITS-1:0]] == unit_of(k)
          && row[addr[k][BANK_BITS-1:0]] == addr[k][ADDR-1:BANK_BITS];
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
      assign reads = run && ok[b] && in_range[b] && section(row[b]) == SECTION_BITS'(s);
      assign writes = run && write_hits[b] && section(write_row[b]) == SECTION_BITS'(s);
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
      if (run) begin
        from <= section(row[b]);
        zero <= !in_range[b];
      end
    end
    assign bank_data[b] = zero ? '0 : rdata[from];
  end

  logic [REQS-1:0][BANK_BITS-1:0] bank_of;
  logic [REQS-1:0][63:0] data;
  always_ff @(posedge clk) begin
    if (run) for (int k = 0; k < REQS; k++) bank_of[k] <= addr[k][BANK_BITS-1:0];
  end
  always_comb for (int k = 0; k < REQS; k++) data[k] = bank_data[bank_of[k]];
  assign {drain_data, aux_data, load_data} = data;
endmodule
