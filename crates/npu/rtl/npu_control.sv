// The host's port: state, start and reset, counters, the watchdog. Section 7 of the specification.
module npu_control
  import npu_pkg::*;
  import npu_types::*;
(
    input logic clk,
    input logic rst_n,
    input logic ctl_write,
    input logic ctl_read,
    input logic [19:0] ctl_addr,
    input logic [63:0] ctl_wdata,
    output logic [63:0] ctl_rdata,
    output logic irq,
    // State but memories is cleared in the cycles after a reset or a start; then, after a start, the chip works until the state is not RUN.
    output logic run,
    output logic clear,
    output logic [3:0][15:0] entries,
    output logic program_write,
    // How this cycle went.
    input logic all_ended,
    input logic illegal,
    input logic [1:0] illegal_queue,
    input logic [15:0] illegal_pc,
    input logic progress,
    // Bit n: counter 4 + n advances.
    input logic [7:0] count
);
  localparam logic [1:0] IDLE = 2'd0, RUN = 2'd1, DONE = 2'd2, ERROR = 2'd3;
  localparam int COUNTER = 48;
  localparam int WATCH = $clog2(WATCHDOG + 1);

  logic [1:0] state;
  logic [3:0] error;
  logic [1:0] queue;
  logic [15:0] pc;
  logic [COUNTER-1:0] cycles;
  // What happened is known late in a cycle: it is held for one before it is counted, and added where counters are read.
  logic [7:0] counting;
  logic [7:0][COUNTER-1:0] counters;
  // Cycles without progress before the last, and whether there was some in that.
  logic [WATCH-1:0] idle;
  logic moved;
  // Units clear their state in the cycle after `clear`.
  logic clearing;
  logic command, soft_reset, start;

  assign command = ctl_write && ctl_addr == 20'd0;
  assign soft_reset = command && ctl_wdata[1];
  assign start = command && ctl_wdata[0] && !ctl_wdata[1] && (state == IDLE || state == DONE);
  assign irq = state == DONE || state == ERROR;
  assign program_write = ctl_write && ctl_addr[19] && (state == IDLE || state == DONE);

  always_ff @(posedge clk) begin
    clear <= !rst_n || soft_reset || start;
    clearing <= clear;
    if (!rst_n || soft_reset) begin
      state <= IDLE;
      run <= 1'b0;
      error <= '0;
      queue <= '0;
      pc <= '0;
    end else if (start) begin
      state <= RUN;
    end else if (state == RUN && clearing && !clear) begin
      run <= 1'b1;
    end else if (run) begin
      if (illegal) begin
        state <= ERROR;
        run <= 1'b0;
        error <= 4'd1;
        queue <= illegal_queue;
        pc <= illegal_pc;
      end else if (all_ended) begin
        state <= DONE;
        run <= 1'b0;
      end else if (!moved && idle == WATCH'(WATCHDOG - 1)) begin
        state <= ERROR;
        run <= 1'b0;
        error <= 4'd2;
      end
    end
    if (clear) begin
      idle <= '0;
      moved <= 1'b1;
      cycles <= '0;
      counting <= '0;
      counters <= '0;
    end else begin
      if (run) begin
        moved <= progress;
        idle <= moved ? '0 : idle + WATCH'(1);
        cycles <= cycles + COUNTER'(1);
      end
      counting <= run ? count : '0;
      for (int n = 0; n < 8; n++) counters[n] <= counters[n] + COUNTER'(counting[n]);
    end
    if (!rst_n) entries <= '0;
    else if (ctl_write && ctl_addr == 20'd2) entries <= ctl_wdata;
    if (ctl_read) begin
      ctl_rdata <= '0;
      if (ctl_addr == 20'd1) ctl_rdata <= {32'b0, pc, 6'b0, queue, error, 2'b0, state};
      if (ctl_addr == 20'd3) ctl_rdata <= 64'(cycles);
      if (ctl_addr[19:4] == '0 && ctl_addr[3:0] >= 4'd4 && ctl_addr[3:0] < 4'd12)
        ctl_rdata <= 64'(counters[3'(ctl_addr[3:0]-4'd4)] + COUNTER'(counting[3'(ctl_addr[3:0]-4'd4)]));
    end
  end
endmodule
