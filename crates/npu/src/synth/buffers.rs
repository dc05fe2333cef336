//! Buffers into nets that drive more than a gate can, across modules.
//!
//! Modules are mapped one by one, so that nothing knows what a net drives in the modules that it leads into. Here the capacitance behind every port
//! is summed from the leaves up, and a tree of buffers stands before what is too much: sinks in groups of a bounded capacitance, a buffer for each,
//! up to one at the root. Wires weigh nothing, as before placement.

use std::collections::{BTreeMap, HashMap};

use super::{
    liberty::Group,
    netlist::{Bit, Cell, Module, Netlist},
    target::Technology,
};
use crate::NpuError;

/// What a net drives: a pin of a cell, or a port of a module inside.
struct Sink {
    cell: String,
    pin: String,
    bit: usize,
    capacitance: f64,
}

/// An input of a library's cell.
#[derive(Clone, Copy)]
enum Pin {
    /// Its capacitance, in the library's unit.
    Data(f64),
    /// A clock's: the clock is ideal.
    Clock,
    Output,
}

/// Inserts buffers in all modules under `top`; gives how many there are in each module.
///
/// # Errors
/// If the libraries lack the technology's buffer.
pub(super) fn insert(
    netlist: &mut Netlist,
    top: &str,
    libraries: &[Group],
    technology: &Technology,
) -> Result<BTreeMap<String, usize>, NpuError> {
    let pins = pins(libraries);
    let (buffer, input, _) = technology.buffer;
    let Some(Pin::Data(own)) = pins.get(&(buffer, input)).copied() else {
        return Err(NpuError::Library(format!("no buffer `{buffer}` with an input `{input}`")));
    };
    let mut work = Work { pins, technology, own, ports: HashMap::new(), counts: BTreeMap::new() };
    for name in netlist.inside_out(top) {
        if let Some(mut module) = netlist.modules.remove(&name) {
            work.module(&name, &mut module, netlist);
            netlist.modules.insert(name, module);
        }
    }
    Ok(work.counts)
}

/// The pins of the libraries' cells.
fn pins(libraries: &[Group]) -> HashMap<(&str, &str), Pin> {
    let mut all = HashMap::new();
    for cell in libraries.iter().flat_map(|l| l.of("cell")) {
        for pin in cell.of("pin") {
            let clock = pin.get("clock") == Some("true") || pin.get("clock_gate_clock_pin") == Some("true");
            let what = match pin.get("direction") {
                Some("input") if clock => Pin::Clock,
                Some("input") => Pin::Data(pin.number("capacitance").unwrap_or(0.0)),
                _ => Pin::Output,
            };
            all.insert((cell.arguments.as_str(), pin.arguments.as_str()), what);
        }
    }
    all
}

struct Work<'a> {
    pins: HashMap<(&'a str, &'a str), Pin>,
    technology: &'a Technology,
    /// Capacitance of a buffer's input.
    own: f64,
    /// For every input port of a module that is done, by bit what it drives; nothing for clocks.
    ports: HashMap<(String, String), Vec<Option<f64>>>,
    counts: BTreeMap<String, usize>,
}

impl Work<'_> {
    fn module(&mut self, name: &str, module: &mut Module, netlist: &Netlist) {
        let mut clocks: Vec<usize> = vec![];
        let mut sinks: BTreeMap<usize, Vec<Sink>> = BTreeMap::new();
        for (cell, c) in &module.cells {
            for (pin, bits) in &c.connections {
                for (bit, connected) in bits.iter().enumerate() {
                    let Bit::Net(net) = *connected else { continue };
                    match self.pin(netlist, c, pin, bit) {
                        Pin::Output => {}
                        Pin::Clock => clocks.push(net),
                        Pin::Data(capacitance) => {
                            let sink = Sink { cell: cell.clone(), pin: pin.clone(), bit, capacitance };
                            sinks.entry(net).or_default().push(sink);
                        }
                    }
                }
            }
        }
        let largest = module.largest_net();
        let mut tree = Tree { module, next: largest + 1, made: 0, technology: self.technology, own: self.own };
        let mut drives: HashMap<usize, f64> = HashMap::new();
        for (net, sinks) in sinks {
            drives.insert(net, tree.grow(net, sinks));
        }
        let made = tree.made;
        if made > 0 {
            self.counts.insert(name.to_string(), made);
        }
        for (port, p) in &module.ports {
            if p.direction == "input" {
                let of = |bit: &Bit| match bit {
                    Bit::Net(n) if drives.contains_key(n) => Some(drives[n]),
                    Bit::Net(n) if clocks.contains(n) => None,
                    _ => Some(0.0),
                };
                self.ports.insert((name.to_string(), port.clone()), p.bits.iter().map(of).collect());
            }
        }
    }

    /// What a pin of a cell, or a port of a module, is. Inputs of what is in no library weigh as much as a buffer.
    fn pin(&self, netlist: &Netlist, cell: &Cell, pin: &str, bit: usize) -> Pin {
        if let Some(known) = self.pins.get(&(cell.kind.as_str(), pin)) {
            return *known;
        }
        if netlist.modules.contains_key(&cell.kind) {
            return match self.ports.get(&(cell.kind.clone(), pin.to_string())).map(|bits| bits.get(bit)) {
                Some(Some(Some(capacitance))) => Pin::Data(*capacitance),
                Some(Some(None)) => Pin::Clock,
                _ => Pin::Output,
            };
        }
        match cell.directions.get(pin).map(String::as_str) {
            Some("input") if pin == "clk" => Pin::Clock,
            Some("input") => Pin::Data(self.own),
            _ => Pin::Output,
        }
    }
}

/// Buffers in one module.
struct Tree<'a> {
    module: &'a mut Module,
    next: usize,
    made: usize,
    technology: &'a Technology,
    own: f64,
}

impl Tree<'_> {
    /// Puts buffers between a net and its sinks where those are too much for it; gives what it drives then.
    fn grow(&mut self, net: usize, mut sinks: Vec<Sink>) -> f64 {
        let limit = self.technology.fanout * self.own;
        let sum = |sinks: &[Sink]| sinks.iter().map(|s| s.capacitance).sum::<f64>();
        if sum(&sinks) <= limit {
            return sum(&sinks);
        }
        while sinks.len() > 1 {
            let (mut groups, mut filled) = (vec![vec![]], 0.0);
            for sink in sinks {
                if filled > 0.0 && filled + sink.capacitance > limit {
                    groups.push(vec![]);
                    filled = 0.0;
                }
                filled += sink.capacitance;
                if let Some(group) = groups.last_mut() {
                    group.push(sink);
                }
            }
            sinks = groups.into_iter().map(|group| self.buffer(net, group)).collect();
        }
        sum(&sinks)
    }

    /// A buffer that drives these sinks, itself driven by the net.
    fn buffer(&mut self, net: usize, sinks: Vec<Sink>) -> Sink {
        let (kind, input, output) = self.technology.buffer;
        let behind = self.next;
        self.next += 1;
        self.made += 1;
        for sink in sinks {
            let pin = self.module.cells.get_mut(&sink.cell).and_then(|c| c.connections.get_mut(&sink.pin));
            if let Some(bit) = pin.and_then(|bits| bits.get_mut(sink.bit)) {
                *bit = Bit::Net(behind);
            }
        }
        let connections =
            [(input, Bit::Net(net)), (output, Bit::Net(behind))].map(|(pin, bit)| (pin.to_string(), vec![bit]));
        let cell = format!("buffer_{behind}");
        let made = Cell { kind: kind.into(), connections: connections.into(), directions: BTreeMap::new() };
        self.module.cells.insert(cell.clone(), made);
        Sink { cell, pin: input.into(), bit: 0, capacitance: self.own }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synth::{liberty, target::Target};

    /// A library with the buffer of ASAP7, an inverter of capacitance 1 and a flip-flop.
    fn library() -> Group {
        liberty::parse(
            r#"library (l) {
                cell (BUFx8_ASAP7_75t_R) { pin (A) { direction : "input"; capacitance : 1; } pin (Y) { direction : "output"; } }
                cell (inv) { pin (A) { direction : "input"; capacitance : 1; } pin (Y) { direction : "output"; } }
                cell (dff) { pin (CLK) { direction : "input"; clock : true; capacitance : 1; } pin (D) { direction : "input"; capacitance : 1; }
                  pin (Q) { direction : "output"; } } }"#,
        )
        .unwrap()
    }

    /// A register that drives `n` modules of 100 inverters each.
    fn netlist(n: usize) -> Netlist {
        let cell = |kind: &str, pins: &str| format!(r#"{{"type": "{kind}", "connections": {{{pins}}}}}"#);
        let inverters =
            (0..100).map(|i| format!(r#""i{i}": {}"#, cell("inv", &format!(r#""A": [2], "Y": [{}]"#, 10 + i))));
        let leaves = (0..n).map(|i| format!(r#""leaf{i}": {}"#, cell("leaf", r#""x": [3], "clk": [2]"#)));
        let register = format!(r#""q": {}"#, cell("dff", r#""CLK": [2], "D": ["0"], "Q": [3]"#));
        let text = format!(
            r#"{{"modules": {{
                "top": {{"ports": {{"clk": {{"direction": "input", "bits": [2]}}}}, "cells": {{{}, {register}}}, "netnames": {{}}}},
                "leaf": {{"ports": {{"x": {{"direction": "input", "bits": [2]}}, "clk": {{"direction": "input", "bits": [3]}}}},
                  "cells": {{{}, "r": {}}}, "netnames": {{}}}} }} }}"#,
            leaves.collect::<Vec<_>>().join(", "),
            inverters.collect::<Vec<_>>().join(", "),
            cell("dff", r#""CLK": [3], "D": ["0"], "Q": [500]"#)
        );
        Netlist::parse(&text).unwrap()
    }

    #[test]
    fn no_gate_drives_more_than_the_limit() {
        let technology = Target::Asap7.technology().unwrap();
        let mut all = netlist(64);
        let counts = insert(&mut all, "top", &[library()], technology).unwrap();
        assert!(counts["leaf"] > 100 / technology.fanout as usize && counts["top"] > 1, "{counts:?}");
        for (name, module) in &all.modules {
            let mut drives: HashMap<usize, usize> = HashMap::new();
            let mut inputs = 0;
            for cell in module.cells.values() {
                for (pin, bits) in &cell.connections {
                    let clock = pin.eq_ignore_ascii_case("clk");
                    if let (Bit::Net(net), false) = (bits[0], clock || pin == "Y" || pin == "Q") {
                        *drives.entry(net).or_default() += 1;
                        inputs += usize::from(cell.kind == "inv" || cell.kind == "leaf");
                    }
                }
            }
            assert!(drives.values().all(|n| *n as f64 <= technology.fanout), "{name}: {drives:?}");
            assert_eq!(inputs, if name == "leaf" { 100 } else { 64 });
            // Everything is still driven by what drove it, through buffers alone.
            let behind = |net: usize| {
                let driver = module.cells.values().find(|c| c.connections.get("Y") == Some(&vec![Bit::Net(net)]));
                driver.filter(|c| c.kind.starts_with("BUF")).map(|c| c.connections["A"][0])
            };
            let source = Bit::Net(if name == "leaf" { 2 } else { 3 });
            for cell in module.cells.values().filter(|c| c.kind == "inv" || c.kind == "leaf") {
                let mut at = cell.connections.get("A").or(cell.connections.get("x")).unwrap()[0];
                while let Bit::Net(net) = at
                    && at != source
                {
                    at = behind(net).unwrap();
                }
            }
        }
    }

    #[test]
    fn what_is_little_stays_as_it_is() {
        let technology = Target::Asap7.technology().unwrap();
        let mut all = netlist(1);
        all.modules.get_mut("leaf").unwrap().cells.retain(|name, _| name.len() < 2);
        assert!(insert(&mut all, "top", &[library()], technology).unwrap().is_empty());
        let none = liberty::parse("library (l) { }").unwrap();
        assert!(insert(&mut all, "top", &[none], technology).is_err());
    }
}
