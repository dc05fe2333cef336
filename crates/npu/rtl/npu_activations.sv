// The activation memory: BANKS banks of SECTIONS single-ported macros, an arbiter for the requests of a read step, and the way of what was
// read to its request. Section 6.3 of the specification.
module npu_activations
  import npu_pkg::*;
  import npu_types::*;
(
    input logic clk,
    input logic run,
    // Requests of the client that owns the read port in this cycle.
    input logic [REQS-1:0] req_valid,
    input logic [REQS-1:0][ADDR-1:0] req_addr,
    output logic [REQS-1:0] served,
    // In the next cycle: the word of every request that was served.
    output logic [REQS-1:0][63:0] data,
    // Bit b: bank b is written, at its row.
    input logic [BANKS-1:0] write,
    input logic [BANKS-1:0][BANK_ROW-1:0] write_row,
    input logic [BANKS-1:0][63:0] write_data,
    input logic [63:0] write_mask
);
  localparam int MACRO_WORDS = BANK_WORDS / SECTIONS;
  localparam int MACRO_BITS = $clog2(MACRO_WORDS);
  localparam int SECTION_BITS = SECTIONS > 1 ? $clog2(SECTIONS) : 1;
  localparam int IN_RANGE = $clog2(BANK_WORDS);

  function automatic logic [SECTION_BITS-1:0] section(input logic [BANK_ROW-1:0] row);
    section = SECTIONS > 1 ? SECTION_BITS'(row >> MACRO_BITS) : '0;
  endfunction

  // The lowest-numbered request of each bank.
  logic [BANKS-1:0] asked, ok, in_range, write_hits;
  logic [BANKS-1:0][BANK_ROW-1:0] row;
  always_comb begin
    asked = '0;
    row = '0;
    for (int k = REQS - 1; k >= 0; k--) begin
      if (req_valid[k]) begin
        asked[req_addr[k][BANK_BITS-1:0]] = 1'b1;
        row[req_addr[k][BANK_BITS-1:0]] = req_addr[k][ADDR-1:BANK_BITS];
      end
    end
    for (int b = 0; b < BANKS; b++) begin
      in_range[b] = (row[b] >> IN_RANGE) == '0;
      write_hits[b] = write[b] && (write_row[b] >> IN_RANGE) == '0;
      ok[b] = asked[b] && !(write_hits[b] && in_range[b] && section(write_row[b]) == section(row[b]));
    end
    for (int k = 0; k < REQS; k++) begin
      served[k] = req_valid[k] && ok[req_addr[k][BANK_BITS-1:0]]
          && row[req_addr[k][BANK_BITS-1:0]] == req_addr[k][ADDR-1:BANK_BITS];
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
          .wmask(write_mask),
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
  always_ff @(posedge clk) begin
    if (run) for (int k = 0; k < REQS; k++) bank_of[k] <= req_addr[k][BANK_BITS-1:0];
  end
  always_comb for (int k = 0; k < REQS; k++) data[k] = bank_data[bank_of[k]];
endmodule
