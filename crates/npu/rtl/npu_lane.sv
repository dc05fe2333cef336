// A lane of the auxiliary unit: one plane of up to nine taps per cycle, in three stages. Section 4 of the specification.
module npu_lane
  import npu_pkg::*;
(
    input logic clk,
    // What the instruction does: a weighted sum, a maximum, the sum of two activations, else a plain sum.
    input logic weighted,
    input logic maximum,
    input logic add,
    input logic [15:0] ma,
    input logic [15:0] mb,
    // Stage 2: a bit of every tap; taps that do not count are 0.
    input logic step_en,
    input logic [TAPS-1:0] bits,
    input logic [TAPS-1:0] counts,
    input logic [TAPS-1:0][7:0] weights,
    input logic first_plane,
    input logic negative_plane,
    // Stage 3: the local sum.
    input logic local_en,
    input logic local_set,
    input logic [2:0] subtract,
    // Stage 4: the main sum, and the word's last.
    input logic main_en,
    input logic main_set,
    output logic [31:0] total
);
  // Of a maximum: the taps that are the greatest in the planes so far.
  logic [TAPS-1:0] alive, candidates, kept;
  logic greatest;
  logic [2:0][16:0] part, parts;
  logic signed [31:0] sum, local_sum, main_sum;

  assign candidates = first_plane ? counts : alive;
  assign kept = candidates & (bits ^ {TAPS{negative_plane}});
  assign greatest = kept != '0;

  always_comb begin
    for (int r = 0; r < 3; r++) begin
      part[r] = '0;
      for (int t = 3 * r; t < 3 * r + 3; t++) begin
        if (weighted) part[r] = part[r] + (bits[t] ? {{9{weights[t][7]}}, weights[t]} : '0);
        else part[r] = part[r] + {16'b0, bits[t]};
      end
    end
    if (maximum) part = {34'b0, 16'b0, greatest ^ negative_plane};
    // Both multipliers are below 2^16: their sign is zero.
    if (add) part = {17'b0, bits[1] ? {1'b0, mb} : 17'b0, bits[0] ? {1'b0, ma} : 17'b0};
  end

  always_comb begin
    sum = '0;
    for (int r = 0; r < 3; r++) begin
      if (subtract[r]) sum = sum - {{15{parts[r][16]}}, parts[r]};
      else sum = sum + {{15{parts[r][16]}}, parts[r]};
    end
    if (!local_set) sum = sum + (local_sum <<< 1);
    if (main_set) total = local_sum;
    else if (maximum) total = local_sum > main_sum ? local_sum : main_sum;
    else total = main_sum + local_sum;
  end

  always_ff @(posedge clk) begin
    if (step_en) begin
      parts <= part;
      alive <= greatest ? kept : candidates;
    end
    if (local_en) local_sum <= sum;
    if (main_en) main_sum <= total;
  end
endmodule
