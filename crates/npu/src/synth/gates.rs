//! A netlist simulated gate by gate, to count how often its nets change.
//!
//! Every cell takes the same time, so that nets change more than once a cycle where paths of different length meet, as they do in silicon.

use std::collections::{BTreeMap, HashMap};

use super::{
    liberty::Group,
    netlist::{Bit, Module},
    target::Technology,
};
use crate::NpuError;

/// A function of a few pins: bit n is its value where the pins are the bits of n.
#[derive(Debug, Clone, PartialEq)]
struct Table(Vec<bool>);

/// A cell's output.
#[derive(Debug)]
struct Gate {
    inputs: Vec<usize>,
    output: usize,
    table: Table,
}

/// A flip-flop: next state, and its outputs, some inverted.
#[derive(Debug)]
struct Flop {
    name: String,
    inputs: Vec<usize>,
    table: Table,
    outputs: Vec<(usize, bool)>,
    clock: usize,
    state: bool,
}

/// A gate of the clock: the net behind it moves only where the enable was 1.
#[derive(Debug)]
struct ClockGate {
    name: String,
    enable: usize,
    gated: usize,
}

/// A simulation.
#[derive(Debug)]
pub(super) struct Gates {
    gates: Vec<Gate>,
    flops: Vec<Flop>,
    clock_gates: Vec<ClockGate>,
    /// Gates that read a net.
    readers: Vec<Vec<usize>>,
    value: Vec<bool>,
    toggles: Vec<u64>,
    high: Vec<u64>,
    cycles: u64,
    /// Cycles in which what a clock gate gates was clocked, by net.
    clocked: HashMap<usize, u64>,
    ports: BTreeMap<String, Vec<usize>>,
    /// Cells with their pins and nets.
    pins: Vec<(String, Vec<(String, usize)>)>,
}

/// Nets that are constant.
const LOW: usize = 0;
const HIGH: usize = 1;

impl Gates {
    /// A simulation of a module without modules inside.
    ///
    /// # Errors
    /// If a cell is none of the libraries', or a function cannot be read.
    pub(super) fn new(module: &Module, libraries: &[Group], t: &Technology) -> Result<Gates, NpuError> {
        let net = |bit: &Bit| match bit {
            Bit::Constant(false) => LOW,
            Bit::Constant(true) => HIGH,
            Bit::Net(n) => *n,
        };
        let cells: HashMap<&str, &Group> =
            libraries.iter().flat_map(|l| l.of("cell")).map(|c| (c.arguments.as_str(), c)).collect();
        let ports: BTreeMap<String, Vec<usize>> =
            module.ports.iter().map(|(name, p)| (name.clone(), p.bits.iter().map(net).collect())).collect();
        let (mut gates, mut flops, mut clock_gates) = (vec![], vec![], vec![]);
        let mut pins: Vec<(String, Vec<(String, usize)>)> = vec![];
        for (name, cell) in &module.cells {
            let unknown = |what: &str| NpuError::Library(format!("cell `{}`: {what}", cell.kind));
            let library = cells.get(cell.kind.as_str()).ok_or_else(|| unknown("not in the libraries"))?;
            let connected = |pin: &str| cell.connections.get(pin).and_then(|b| b.first()).map(net);
            let all = cell.connections.iter().filter_map(|(pin, b)| Some((pin.clone(), net(b.first()?))));
            pins.push((name.clone(), all.collect()));
            if cell.kind == t.gate.0 {
                let (enable, gated) = connected(t.gate.1).zip(connected(t.gate.3)).ok_or_else(|| unknown("pins"))?;
                clock_gates.push(ClockGate { name: name.clone(), enable, gated });
                continue;
            }
            let inputs: Vec<(&str, usize)> = library
                .of("pin")
                .filter(|p| p.get("direction") == Some("input"))
                .map(|p| (p.arguments.as_str(), connected(&p.arguments).unwrap_or(LOW)))
                .collect();
            let names: Vec<&str> = inputs.iter().map(|i| i.0).collect();
            let nets: Vec<usize> = inputs.iter().map(|i| i.1).collect();
            let outputs = library.of("pin").filter_map(|p| Some((p.get("function")?, connected(&p.arguments)?)));
            if let Some(flop) = library.of("ff").next() {
                let (state, inverse) = flop.arguments.split_once(',').ok_or_else(|| unknown("no state"))?;
                let (state, inverse) = (state.trim().trim_matches('"'), inverse.trim().trim_matches('"'));
                let next = flop.get("next_state").ok_or_else(|| unknown("no next state"))?;
                let clock = flop.get("clocked_on").and_then(connected).ok_or_else(|| unknown("no clock"))?;
                let outputs = outputs
                    .map(|(function, n)| match function {
                        f if f == state => Ok((n, false)),
                        f if f == inverse => Ok((n, true)),
                        f => Err(unknown(&format!("output `{f}`"))),
                    })
                    .collect::<Result<_, _>>()?;
                let table = table(next, &names)?;
                flops.push(Flop { name: name.clone(), inputs: nets, table, outputs, clock, state: false });
            } else {
                for (function, output) in outputs {
                    gates.push(Gate { inputs: nets.clone(), output, table: table(function, &names)? });
                }
            }
        }
        let nets = ports.values().flatten().chain(pins.iter().flat_map(|p| p.1.iter().map(|n| &n.1)));
        let count = 2 + nets.copied().max().unwrap_or(0);
        let mut readers = vec![vec![]; count];
        for (g, gate) in gates.iter().enumerate() {
            for n in &gate.inputs {
                readers[*n].push(g);
            }
        }
        let mut value = vec![false; count];
        value[HIGH] = true;
        let mut all = Gates {
            flops,
            clock_gates,
            readers,
            value,
            toggles: vec![0; count],
            high: vec![0; count],
            cycles: 0,
            clocked: HashMap::new(),
            ports,
            pins,
            gates,
        };
        // From everything at 0 to what the gates make of it; that is not counted.
        let first: Vec<(usize, bool)> = all.flops.iter().flat_map(|f| f.outputs.iter().map(|o| (o.0, o.1))).collect();
        all.apply(first);
        let everything: Vec<usize> = (0..all.gates.len()).collect();
        all.settle(everything);
        all.forget();
        Ok(all)
    }

    /// Counts from here on.
    pub(super) fn forget(&mut self) {
        self.toggles.fill(0);
        self.high.fill(0);
        self.clocked.clear();
        self.cycles = 0;
    }

    /// The value of an output, as an integer.
    pub(super) fn get(&self, port: &str) -> u64 {
        let bits = self.ports.get(port).map_or(&[][..], Vec::as_slice);
        bits.iter().enumerate().map(|(k, n)| u64::from(self.value[*n]) << k).sum()
    }

    /// A clock's edge, after which inputs change; those that are not named stay.
    pub(super) fn cycle(&mut self, inputs: &[(&str, u128)]) {
        let mut changes = Vec::new();
        let enabled: HashMap<usize, bool> = self.clock_gates.iter().map(|g| (g.gated, self.value[g.enable])).collect();
        for (gated, on) in &enabled {
            *self.clocked.entry(*gated).or_default() += u64::from(*on);
        }
        for flop in &mut self.flops {
            if enabled.get(&flop.clock).copied().unwrap_or(true) {
                flop.state = flop.table.0[index(&flop.inputs, &self.value)];
                changes.extend(flop.outputs.iter().map(|(n, inverted)| (*n, flop.state ^ inverted)));
            }
        }
        for (port, value) in inputs {
            let bits = self.ports.get(*port).map_or(&[][..], Vec::as_slice);
            changes.extend(bits.iter().enumerate().map(|(k, n)| (*n, value >> k & 1 != 0)));
        }
        let touched = self.apply(changes);
        self.settle(touched);
        for (high, value) in self.high.iter_mut().zip(&self.value) {
            *high += u64::from(*value);
        }
        self.cycles += 1;
    }

    /// Gives nets their values; says which gates read those that changed.
    fn apply(&mut self, changes: Vec<(usize, bool)>) -> Vec<usize> {
        let mut touched = Vec::new();
        for (net, value) in changes {
            if net > HIGH && self.value[net] != value {
                self.value[net] = value;
                self.toggles[net] += 1;
                touched.extend(&self.readers[net]);
            }
        }
        touched.sort_unstable();
        touched.dedup();
        touched
    }

    fn settle(&mut self, mut touched: Vec<usize>) {
        // More steps than any path has: what does not settle is a loop.
        for _ in 0..10_000 {
            if touched.is_empty() {
                return;
            }
            let evaluate = |g: &usize| {
                let gate = &self.gates[*g];
                (gate.output, gate.table.0[index(&gate.inputs, &self.value)])
            };
            let changes = touched.iter().map(evaluate).collect();
            touched = self.apply(changes);
        }
    }

    /// Changes of all nets per cycle.
    pub(super) fn changes(&self) -> f64 {
        self.toggles.iter().sum::<u64>() as f64 / self.cycles.max(1) as f64
    }

    /// Of every pin, the changes per cycle and the part of the time that it is 1.
    pub(super) fn activities(&self) -> impl Iterator<Item = (&str, &str, f64, f64)> {
        let cycles = self.cycles.max(1) as f64;
        self.pins.iter().flat_map(move |(cell, pins)| {
            pins.iter().map(move |(pin, net)| {
                (cell.as_str(), pin.as_str(), self.toggles[*net] as f64 / cycles, self.high[*net] as f64 / cycles)
            })
        })
    }

    /// Of every flip-flop and clock gate, the part of the cycles in which its clock (or the gated one) moves.
    pub(super) fn clocked(&self) -> (Vec<(&str, f64)>, Vec<(&str, f64)>) {
        let cycles = self.cycles.max(1) as f64;
        let part = |net: usize| self.clocked.get(&net).map_or(0.0, |n| *n as f64 / cycles);
        let gated = |net: usize| self.clock_gates.iter().any(|g| g.gated == net);
        let flop = |f: &Flop| if gated(f.clock) { part(f.clock) } else { 1.0 };
        (
            self.flops.iter().map(|f| (f.name.as_str(), flop(f))).collect(),
            self.clock_gates.iter().map(|g| (g.name.as_str(), part(g.gated))).collect(),
        )
    }
}

fn index(inputs: &[usize], value: &[bool]) -> usize {
    inputs.iter().enumerate().map(|(k, n)| usize::from(value[*n]) << k).sum()
}

/// The table of a Liberty function: `!A`, `A'`, `A*B`, `A&B`, `A B`, `A+B`, `A|B`, `A^B`, parentheses, 0 and 1.
fn table(function: &str, pins: &[&str]) -> Result<Table, NpuError> {
    if pins.len() > 10 {
        return Err(NpuError::Library(format!("the function `{function}` has {} pins", pins.len())));
    }
    let values = (0..1usize << pins.len()).map(|n| {
        let mut parser = Function { text: function.as_bytes(), at: 0, pins, values: n, depth: 0 };
        parser.or().filter(|_| parser.peek().is_none())
    });
    let bad = || NpuError::Library(format!("the function `{function}` cannot be read"));
    values.collect::<Option<Vec<bool>>>().map(Table).ok_or_else(bad)
}

struct Function<'a> {
    text: &'a [u8],
    at: usize,
    pins: &'a [&'a str],
    values: usize,
    depth: usize,
}

impl Function<'_> {
    fn peek(&mut self) -> Option<u8> {
        while self.text.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
        self.text.get(self.at).copied()
    }

    fn or(&mut self) -> Option<bool> {
        let mut value = self.xor()?;
        while matches!(self.peek(), Some(b'+' | b'|')) {
            self.at += 1;
            value |= self.xor()?;
        }
        Some(value)
    }

    fn xor(&mut self) -> Option<bool> {
        let mut value = self.and()?;
        while self.peek() == Some(b'^') {
            self.at += 1;
            value ^= self.and()?;
        }
        Some(value)
    }

    fn and(&mut self) -> Option<bool> {
        let mut value = self.not()?;
        loop {
            match self.peek() {
                Some(b'*' | b'&') => self.at += 1,
                // Two factors beside each other.
                Some(c) if c == b'(' || c == b'!' || c.is_ascii_alphanumeric() => {}
                _ => return Some(value),
            }
            value &= self.not()?;
        }
    }

    fn not(&mut self) -> Option<bool> {
        self.depth += 1;
        if self.depth > 64 {
            return None;
        }
        let mut value = match self.peek()? {
            b'!' => {
                self.at += 1;
                !self.not()?
            }
            b'(' => {
                self.at += 1;
                let value = self.or()?;
                if self.peek()? != b')' {
                    return None;
                }
                self.at += 1;
                value
            }
            _ => self.pin()?,
        };
        while self.peek() == Some(b'\'') {
            self.at += 1;
            value = !value;
        }
        self.depth -= 1;
        Some(value)
    }

    fn pin(&mut self) -> Option<bool> {
        let rest = &self.text[self.at..];
        let length = rest.iter().take_while(|c| c.is_ascii_alphanumeric() || **c == b'_').count();
        let name = std::str::from_utf8(&rest[..length]).ok()?;
        self.at += length;
        match self.pins.iter().position(|p| *p == name) {
            Some(k) => Some(self.values >> k & 1 != 0),
            None if name == "0" => Some(false),
            None if name == "1" => Some(true),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synth::{liberty, netlist::Netlist, target::Target};

    #[test]
    fn functions_as_liberty_writes_them() {
        for (function, expected) in [
            ("!(A*B)", [true, true, true, false]),
            ("(A & !B) | (!A & B)", [false, true, true, false]),
            ("A^B", [false, true, true, false]),
            ("A' B", [false, false, true, false]),
            ("(A+B)'", [true, false, false, false]),
            ("1", [true; 4]),
        ] {
            assert_eq!(table(function, &["A", "B"]).unwrap().0, expected, "{function}");
        }
        for bad in ["", "A*", "(A", "C", "A)"] {
            assert!(table(bad, &["A", "B"]).is_err(), "{bad}");
        }
    }

    /// A bit that is inverted in every cycle in which it is enabled.
    #[test]
    fn clock_gates_stop_what_is_behind_them_and_changes_are_counted() {
        let library = liberty::parse(
            "library (l) {
               cell (inv) { pin (A) { direction : input; } pin (Y) { direction : output; function : \"!A\"; } }
               cell (sg13g2_lgcp_1) { pin (GATE) { direction : input; } pin (CLK) { direction : input; } pin (GCLK) { direction : output; } }
               cell (dff) { ff (IQ, IQN) { clocked_on : CLK; next_state : D; } pin (CLK) { direction : input; }
                 pin (D) { direction : input; } pin (Q) { direction : output; function : \"IQ\"; } } }",
        )
        .unwrap();
        let netlist = Netlist::parse(
            r#"{"modules": {"m": {"ports": {"clk": {"direction": "input", "bits": [2]}, "en": {"direction": "input", "bits": [3]},
                 "q": {"direction": "output", "bits": [4]}},
               "cells": {"g": {"type": "sg13g2_lgcp_1", "connections": {"CLK": [2], "GATE": [3], "GCLK": [5]}},
                 "f": {"type": "dff", "connections": {"CLK": [5], "D": [6], "Q": [4]}},
                 "i": {"type": "inv", "connections": {"A": [4], "Y": [6]}}}, "netnames": {}}}}"#,
        )
        .unwrap();
        let technology = Target::IhpSg13g2.technology().unwrap();
        let mut gates = Gates::new(&netlist.modules["m"], &[library], technology).unwrap();
        let mut seen = vec![];
        for en in [1, 1, 0, 0, 1] {
            gates.cycle(&[("en", en)]);
            seen.push(gates.get("q"));
        }
        // The enable is that from before the edge.
        assert_eq!(seen, [0, 1, 0, 0, 0]);
        let q = gates.activities().find(|a| (a.0, a.1) == ("f", "Q")).unwrap();
        assert_eq!((q.2, q.3), (2.0 / 5.0, 1.0 / 5.0));
        assert_eq!(gates.clocked(), (vec![("f", 2.0 / 5.0)], vec![("g", 2.0 / 5.0)]));
    }
}
