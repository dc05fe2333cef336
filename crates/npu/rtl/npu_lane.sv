// A lane of the auxiliary unit: one plane of up to nine taps per cycle, in three stages. It has its state once for every turn. Section 4 of the
// specification.
module npu_lane
  import npu_pkg::*;
  import npu_types::*;
(
    input logic clk,
    // What the instruction does: the maximum, or else a sum: weighted by taps or, weights being 0, of taps 0 and 1 times `ma` and `mb`.
    input logic maximum,
    input logic [15:0] ma,
    input logic [15:0] mb,
    // Stage 2: a bit of every tap; taps that do not count are 0.
    input logic step_en,
    input logic [TURN_BITS-1:0] step_turn,
    input logic [TAPS-1:0] bits,
    input logic [TAPS-1:0] counts,
    input logic [TAPS-1:0][7:0] weights,
    input logic first_plane,
    // Signs of the three partial sums, the third's that of the first if it has taps; of a maximum, that of the plane.
    input logic [2:0] negative,
    // Stage 3: the local sum.
    input logic local_en,
    input logic [TURN_BITS-1:0] local_turn,
    input logic local_set,
    // Stage 4: the main sum, and the word's last.
    input logic main_en,
    input logic [TURN_BITS-1:0] main_turn,
    input logic main_set,
    output logic [31:0] total
);
  // Bits of the local sum, as many as 2 · 255 · 65535 and a sign need.
  localparam int LOCAL = 26;
  // State, once for every turn.
  logic [TAPS-1:0] still_alive[TURNS];
  logic [LOCAL-1:0] local_sums[TURNS];
  logic [31:0] main_sums[TURNS];
  // Of a maximum: the taps that are the greatest in the planes so far.
  logic [TAPS-1:0] alive, candidates, kept;
  logic greatest;
  logic [2:0][16:0] part, parts;
  // What makes negated parts, which are inverted, whole.
  logic [2:0] ones;
  logic [LOCAL-1:0] p0, p1, p2, twice, bits_a, bits_b, carries_a, carries_b, sum, local_sum, block;
  logic signed [31:0] block_sum, main_sum;

  assign alive = still_alive[step_turn];
  assign local_sum = local_sums[local_turn];
  assign main_sum = main_sums[main_turn];
  assign block_sum = {{32 - LOCAL{block[LOCAL-1]}}, block};
  assign candidates = first_plane ? counts : alive;
  assign kept = candidates & (bits ^ {TAPS{negative[0]}});
  assign greatest = kept != '0;

  always_comb begin
    for (int r = 0; r < 3; r++) begin
      part[r] = '0;
      for (int t = 3 * r; t < 3 * r + 3; t++) part[r] = part[r] + (bits[t] ? {{9{weights[t][7]}}, weights[t]} : '0);
    end
    // Both multipliers are below 2^16: their sign is zero.
    part[0] |= bits[0] ? {1'b0, ma} : '0;
    part[1] |= bits[1] ? {1'b0, mb} : '0;
    part[0][0] |= maximum && greatest ^ negative[0];
  end

  always_comb begin
    // Five terms in two steps of carry-save addition and one sum.
    p0 = {{LOCAL - 17{parts[0][16]}}, parts[0]};
    p1 = {{LOCAL - 17{parts[1][16]}}, parts[1]};
    p2 = {{LOCAL - 17{parts[2][16]}}, parts[2]};
    twice = local_set ? '0 : local_sum << 1;
    bits_a = p0 ^ p1 ^ p2;
    carries_a = {p0[LOCAL-2:0] & p1[LOCAL-2:0] | p0[LOCAL-2:0] & p2[LOCAL-2:0] | p1[LOCAL-2:0] & p2[LOCAL-2:0], ones[0]};
    bits_b = bits_a ^ carries_a ^ twice;
    carries_b = {bits_a[LOCAL-2:0] & carries_a[LOCAL-2:0] | bits_a[LOCAL-2:0] & twice[LOCAL-2:0] | carries_a[LOCAL-2:0] & twice[LOCAL-2:0], ones[1]};
    sum = bits_b + carries_b + LOCAL'(ones[2]);
    if (main_set) total = block_sum;
    else if (maximum) total = block_sum > main_sum ? block_sum : main_sum;
    else total = main_sum + block_sum;
  end

  always_ff @(posedge clk) begin
    if (step_en) begin
      for (int r = 0; r < 3; r++) parts[r] <= part[r] ^ {17{negative[r]}};
      ones <= negative;
    end
    // The local sum for stage 4, in which another turn may have stage 3.
    if (local_en) block <= sum;
    if (step_en) still_alive[step_turn] <= greatest ? kept : candidates;
    if (local_en) local_sums[local_turn] <= sum;
    if (main_en) main_sums[main_turn] <= total;
  end
endmodule
