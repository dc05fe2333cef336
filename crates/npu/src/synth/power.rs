//! Energy by switching activity: a mapped unit is given what it has to compute, gate by gate; OpenSTA makes watts of how often its pins changed.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    fs,
};

use serde::Serialize;

use super::{Job, Unit, asic, gates::Gates, liberty, netlist::Netlist, reports, target::Technology};
use crate::{NpuError, config::MAC_STAGES, simulate::Operands};

/// Cycles that are simulated at most for a pair of widths.
const CYCLES: usize = 4096;

/// What a unit takes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Energy {
    /// What it was given.
    pub stimulus: String,
    /// Cycles of it.
    pub cycles: usize,
    /// Changes of all nets per cycle.
    pub changes: f64,
    /// Picojoules per cycle.
    pub picojoules: f64,
    /// Of them what the clock takes in flip-flops and clock gates.
    pub clock_picojoules: f64,
    /// Of them what leaks.
    pub leakage_picojoules: f64,
    /// Of an element: picojoules per multiply–accumulate.
    pub per_mac: Option<f64>,
}

/// Inputs for a cycle, by port.
type Inputs = Vec<(&'static str, u128)>;

/// What is given to a unit, and what it must have computed at the end.
struct Stimulus {
    name: String,
    inputs: Vec<Inputs>,
    /// The cycle after which an output must have a value.
    expected: Vec<(usize, u64)>,
    output: &'static str,
    bits: Option<(usize, usize)>,
}

/// Energy of a mapped unit: an element with the operands of a run, by widths; a requantizer and a lane of the auxiliary unit with random values.
pub(super) fn run(
    job: &Job<'_>,
    technology: &Technology,
    libraries: &[String],
    operands: &[Operands],
) -> Result<Vec<Energy>, NpuError> {
    let path = |name: &str| job.folder.join(name);
    let read = |name: &str| {
        fs::read_to_string(path(name)).map_err(|e| NpuError::Library(format!("{}: {e}", path(name).display())))
    };
    let stimuli = match job.unit {
        Unit::Element => of_widths(operands),
        Unit::Requantize => vec![random_sums()],
        Unit::Lane => vec![random_taps()],
        Unit::Column | Unit::Top => vec![],
    };
    if stimuli.is_empty() {
        return Ok(vec![]);
    }
    let parsed = libraries.iter().map(|l| liberty::parse(&read(l)?)).collect::<Result<Vec<_>, _>>()?;
    let netlist = Netlist::parse(&read("netlist.json")?)?;
    let module = &netlist.modules[job.unit.module()];
    let unit = asic::time_unit(&parsed[0]);
    let watts = |name: &str, gates: Option<&Gates>| -> Result<BTreeMap<String, [f64; 3]>, NpuError> {
        let script = script(job, libraries, unit, gates, module.cells.keys());
        fs::write(path(name), script).map_err(|e| NpuError::Library(format!("{}: {e}", path(name).display())))?;
        job.tools.sta(job.folder, name)?;
        Ok(reports::instances(&read(&format!("{name}.log"))?))
    };
    // With nothing but the clock moving: what a flip-flop does not take where its clock is stopped.
    let idle = watts("idle.tcl", None)?;
    let mut energies = Vec::new();
    for stimulus in stimuli {
        let mut gates = Gates::new(module, &parsed, technology)?;
        let mut expected = stimulus.expected.iter().peekable();
        for (t, inputs) in stimulus.inputs.iter().enumerate() {
            gates.cycle(inputs);
            if let Some((_, value)) = expected.next_if(|e| e.0 == t)
                && gates.get(stimulus.output) != *value
            {
                return Err(NpuError::Library(format!(
                    "{}: after cycle {t} the netlist has {} in `{}`, not {value}",
                    stimulus.name,
                    gates.get(stimulus.output),
                    stimulus.output
                )));
            }
        }
        let active = watts(&format!("power-{}.tcl", stimulus.name.replace(' ', "")), Some(&gates))?;
        let sum = |k: usize| active.values().map(|p| p[k]).sum::<f64>();
        let (flops, clock_gates) = gates.clocked();
        let of = |name: &str, k: usize| idle.get(name).map_or(0.0, |p| p[k]);
        // OpenSTA lets every clock move in every cycle.
        let stopped = flops.iter().map(|(n, part)| (1.0 - part) * of(n, 0)).sum::<f64>()
            + clock_gates.iter().map(|(n, part)| (1.0 - part) * of(n, 1)).sum::<f64>();
        let clock = flops.iter().map(|(n, part)| part * of(n, 0)).sum::<f64>()
            + clock_gates.iter().map(|(n, part)| of(n, 0) + part * of(n, 1)).sum::<f64>();
        // Watts times ns, in pJ.
        let picojoules = |watts: f64| watts * job.period() * 1e3;
        let total = picojoules(sum(0) + sum(1) + sum(2) - stopped);
        energies.push(Energy {
            cycles: stimulus.inputs.len(),
            changes: gates.changes(),
            picojoules: total,
            clock_picojoules: picojoules(clock),
            leakage_picojoules: picojoules(sum(2)),
            per_mac: stimulus.bits.map(|(a, w)| total * (a * w) as f64 / 64.0),
            stimulus: stimulus.name,
        });
    }
    Ok(energies)
}

fn script<'a>(
    job: &Job<'_>,
    libraries: &[String],
    unit: f64,
    gates: Option<&Gates>,
    cells: impl Iterator<Item = &'a String>,
) -> String {
    let mut text = asic::loaded(job, libraries, unit);
    let activities: HashMap<(&str, &str), (f64, f64)> = gates
        .map(|g| g.activities().map(|(c, p, changes, high)| ((c, p), (changes, high))).collect())
        .unwrap_or_default();
    if gates.is_some() {
        for ((cell, pin), (changes, high)) in &activities {
            let _ = writeln!(text, "sta::set_power_pin_activity [get_pins {cell}/{pin}] {changes:.6} {high:.6}");
        }
    } else {
        let _ = writeln!(text, "foreach pin [get_pins */*] {{ sta::set_power_pin_activity $pin 0.0 0.5 }}");
    }
    let names: Vec<&str> = cells.map(String::as_str).collect();
    let _ = writeln!(text, "report_power -instances [get_cells {{{}}}] -digits 8\nexit", names.join(" "));
    text
}

/// The groups of every pair of widths, as the array issues them: planes by descending diagonals, a pair a cycle.
fn of_widths(operands: &[Operands]) -> Vec<Stimulus> {
    let mut groups: BTreeMap<(usize, usize), Vec<&Operands>> = BTreeMap::new();
    for o in operands {
        groups.entry(o.bits).or_default().push(o);
    }
    groups.into_iter().map(|(bits, groups)| element(bits, &groups)).collect()
}

/// Section 4 of the specification: planes of activations and weights in the order in which pairs are issued.
fn pairs(a: usize, w: usize) -> Vec<(usize, usize)> {
    let diagonal = |d: usize| (0..a).rev().filter(move |i| *i <= d && d - i < w).map(move |i| (i, d - i));
    (0..a + w - 1).rev().flat_map(diagonal).collect()
}

fn element(bits: (usize, usize), groups: &[&Operands]) -> Stimulus {
    let (mut inputs, mut expected): (Vec<Inputs>, _) = (Vec::new(), Vec::new());
    let order = pairs(bits.0, bits.1);
    let take = (CYCLES / order.len()).clamp(1, groups.len());
    // A pair is in stage k in the k-th cycle after it was issued.
    let cycles = take * order.len() + MAC_STAGES + 1;
    inputs.resize(
        cycles,
        vec![("en", 1), ("clear", 0), ("count_subtract", 0), ("local_en", 0), ("local_last", 0), ("main_en", 0)],
    );
    let mut sum = 0u32;
    for (g, group) in groups[..take].iter().enumerate() {
        for (k, (i, j)) in order.iter().enumerate() {
            let t = g * order.len() + k;
            let negative = (group.signed.0 && i + 1 == bits.0) ^ (group.signed.1 && j + 1 == bits.1);
            let new_diagonal = k > 0 && order[k - 1].0 + order[k - 1].1 != i + j;
            inputs[t + 1].extend([("x", u128::from(group.activations[*i])), ("w", u128::from(group.weights[*j]))]);
            let of_sum = [
                ("local_en", 1),
                ("local_set", u128::from(k == 0)),
                ("local_double", u128::from(new_diagonal)),
                ("local_subtract", u128::from(negative)),
            ];
            inputs[t + 3].extend(of_sum);
            if k + 1 == order.len() {
                // Whatever a run begins with, the first group here begins a sum.
                let first = group.first || g == 0;
                inputs[t + 4].extend([("main_en", 1), ("main_set", u128::from(first))]);
                sum = if first { dot(group) } else { sum.wrapping_add(dot(group)) };
                expected.push((t + 5, u64::from(sum)));
            }
        }
    }
    Stimulus { name: format!("{} x {} bits", bits.0, bits.1), inputs, expected, output: "main", bits: Some(bits) }
}

/// The dot of a group's lanes, modulo 2^32.
fn dot(group: &Operands) -> u32 {
    let mut sum = 0i64;
    for i in 0..group.bits.0 {
        for j in 0..group.bits.1 {
            let count = i64::from((group.activations[i] & group.weights[j]).count_ones()) << (i + j);
            let negative = (group.signed.0 && i + 1 == group.bits.0) ^ (group.signed.1 && j + 1 == group.bits.1);
            sum += if negative { -count } else { count };
        }
    }
    sum as u32
}

/// Bits without order, the same in every run.
fn random() -> impl FnMut() -> u64 {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

/// Sums of 20 bits and scales that make bytes of them, a new pair in every cycle.
fn random_sums() -> Stimulus {
    let mut random = random();
    let inputs = (0..CYCLES)
        .map(|_| {
            let sum = ((random() as i64) >> 44) as u32;
            let scale = 0x3a00_0000 | (random() as u32 >> 9);
            let range = [("zero", 0), ("lo", 0x180), ("hi", 0x7f)];
            [("en", 1), ("acc", u128::from(sum)), ("scale", u128::from(scale))].into_iter().chain(range).collect()
        })
        .collect();
    Stimulus { name: "random sums".into(), inputs, expected: vec![], output: "y", bits: None }
}

/// Weighted sums of nine taps of 8 bits: a plane of all taps in every cycle, weights that stay.
fn random_taps() -> Stimulus {
    let mut random = random();
    let weights = u128::from(random()) | u128::from(random()) << 64;
    let inputs = (0..CYCLES)
        .map(|t| {
            let stage = |late: usize| (t + 8 - late) % 8;
            let always = [("maximum", 0), ("ma", 0), ("mb", 0), ("step_en", 1), ("local_en", 1)];
            let taps = [("bits", u128::from(random() & 0x1ff)), ("counts", 0x1ff), ("weights", weights)];
            let planes = [
                ("first_plane", u128::from(stage(0) == 0)),
                ("negative", if stage(0) == 0 { 7 } else { 0 }),
                ("local_set", u128::from(stage(1) == 0)),
                ("main_en", u128::from(stage(2) == 0)),
                ("main_set", 1),
            ];
            let turns = [("step_turn", 0), ("local_turn", 0), ("main_turn", 0)];
            always.into_iter().chain(taps).chain(planes).chain(turns).collect()
        })
        .collect();
    Stimulus { name: "random taps".into(), inputs, expected: vec![], output: "total", bits: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_come_by_descending_diagonals() {
        assert_eq!(pairs(2, 2), [(1, 1), (1, 0), (0, 1), (0, 0)]);
        assert_eq!(pairs(3, 2), [(2, 1), (2, 0), (1, 1), (1, 0), (0, 1), (0, 0)]);
        assert_eq!(pairs(1, 1), [(0, 0)]);
        assert_eq!(pairs(8, 8).len(), 64);
    }

    #[test]
    fn an_element_is_given_every_pair_and_must_have_every_sum() {
        let group = Operands {
            activations: [1, 3, 0, 0, 0, 0, 0, 0],
            weights: [1, 1, 0, 0, 0, 0, 0, 0],
            bits: (2, 2),
            signed: (false, true),
            first: true,
            last: true,
        };
        // Lanes 3 · −1 and 2 · 0.
        assert_eq!(dot(&group) as i32, -3);
        let stimulus = of_widths(&[group, Operands { first: false, ..group }]).remove(0);
        assert_eq!(stimulus.expected, [(8, -3i32 as u32 as u64), (12, -6i32 as u32 as u64)]);
        assert_eq!(stimulus.inputs.len(), 2 * 4 + 5);
        assert!(stimulus.inputs[7].contains(&("main_en", 1)) && stimulus.inputs[7].contains(&("main_set", 1)));
    }
}
