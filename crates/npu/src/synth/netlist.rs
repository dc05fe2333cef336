//! The netlist that Yosys wrote: modules, cells, and what the nets are called.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
};

use serde::{Deserialize, Deserializer, de};

use crate::NpuError;

/// A netlist.
#[derive(Debug, Deserialize)]
pub(super) struct Netlist {
    pub modules: BTreeMap<String, Module>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Module {
    pub ports: BTreeMap<String, Port>,
    pub cells: BTreeMap<String, Cell>,
    #[serde(rename = "netnames")]
    pub nets: BTreeMap<String, Net>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Port {
    pub direction: String,
    pub bits: Vec<Bit>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Cell {
    #[serde(rename = "type")]
    pub kind: String,
    pub connections: BTreeMap<String, Vec<Bit>>,
    /// Of what is no module of the netlist.
    #[serde(rename = "port_directions", default)]
    pub directions: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Net {
    bits: Vec<Bit>,
}

/// What a pin is connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Bit {
    Constant(bool),
    Net(usize),
}

impl<'de> Deserialize<'de> for Bit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Bit, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Bit;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("the number of a net or a constant")
            }
            fn visit_u64<E: de::Error>(self, n: u64) -> Result<Bit, E> {
                Ok(Bit::Net(n as usize))
            }
            // Undefined ones are 0, as in the netlist that is timed.
            fn visit_str<E: de::Error>(self, s: &str) -> Result<Bit, E> {
                Ok(Bit::Constant(s == "1"))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl Netlist {
    /// Reads what `write_json` wrote.
    ///
    /// # Errors
    /// If it is not such a file.
    pub(super) fn parse(text: &str) -> Result<Netlist, NpuError> {
        serde_json::from_str(text).map_err(|e| NpuError::Library(format!("the netlist of Yosys: {e}")))
    }

    /// The modules under one, and itself; what is inside comes before what it is inside of. Those without cells are left out: memories.
    pub(super) fn inside_out(&self, top: &str) -> Vec<String> {
        fn visit(netlist: &Netlist, name: &str, order: &mut Vec<String>) {
            let Some(module) = netlist.modules.get(name).filter(|m| !m.cells.is_empty()) else { return };
            if order.iter().any(|known| known == name) {
                return;
            }
            for cell in module.cells.values() {
                visit(netlist, &cell.kind, order);
            }
            order.push(name.into());
        }
        let mut order = vec![];
        visit(self, top, &mut order);
        order
    }

    /// Structural Verilog of a module and those inside.
    pub(super) fn verilog(&self, top: &str) -> String {
        let mut text = String::new();
        for name in self.inside_out(top) {
            self.modules[&name].verilog(&name, &mut text);
        }
        text
    }

    /// What a person calls the end of a path: the register's name in the RTL, or else the pin.
    pub(super) fn register(&self, top: &str, instance: &str, pin: &str) -> String {
        let plain = if instance.is_empty() { pin.to_string() } else { format!("{instance}/{pin}") };
        let mut module = self.modules.get(top);
        let (place, cell) = instance.rsplit_once('/').unwrap_or(("", instance));
        for part in place.split('/').filter(|p| !p.is_empty()) {
            module = module.and_then(|m| m.cells.get(part)).and_then(|c| self.modules.get(&c.kind));
        }
        let Some(name) = module.and_then(|m| m.register(cell)) else { return plain };
        if place.is_empty() { name } else { format!("{place}/{name}") }
    }
}

impl Module {
    /// Names of nets in the RTL, by bit.
    pub(super) fn names(&self) -> HashMap<usize, String> {
        let mut names = HashMap::new();
        for (name, net) in &self.nets {
            // Names that were made up are u and a number.
            if name.strip_prefix('u').is_some_and(|n| n.parse::<usize>().is_ok()) {
                continue;
            }
            for (k, bit) in net.bits.iter().enumerate() {
                if let Bit::Net(n) = bit {
                    let name = if net.bits.len() == 1 { name.clone() } else { format!("{name}[{k}]") };
                    names.entry(*n).or_insert(name);
                }
            }
        }
        names
    }

    /// The highest number of a net.
    pub(super) fn largest_net(&self) -> usize {
        let ports = self.ports.values().flat_map(|p| &p.bits);
        let cells = self.cells.values().flat_map(|c| c.connections.values().flatten());
        ports.chain(cells).filter_map(|b| if let Bit::Net(n) = b { Some(*n) } else { None }).max().unwrap_or(0)
    }

    /// Nets are called n and their number; what ports are called is assigned to them, bit by bit.
    fn verilog(&self, name: &str, text: &mut String) {
        let bit = |b: &Bit| match b {
            Bit::Constant(one) => format!("1'b{}", u8::from(*one)),
            Bit::Net(n) => format!("n{n}"),
        };
        let escaped = |name: &str| format!("\\{name} ");
        let names: Vec<String> = self.ports.keys().map(|p| escaped(p)).collect();
        let _ = writeln!(text, "module {}({});", escaped(name), names.join(", "));
        for (port, p) in &self.ports {
            let _ = writeln!(text, "  {} [{}:0] {};", p.direction, p.bits.len().max(1) - 1, escaped(port));
            for (k, b) in p.bits.iter().enumerate() {
                let (own, net) = (format!("{}[{k}]", escaped(port)), bit(b));
                match (p.direction.as_str(), b) {
                    ("input", Bit::Constant(_)) => continue,
                    ("input", Bit::Net(_)) => writeln!(text, "  assign {net} = {own};"),
                    _ => writeln!(text, "  assign {own} = {net};"),
                }
                .unwrap_or_default();
            }
        }
        for (cell, c) in &self.cells {
            let pins = c.connections.iter().filter(|(_, bits)| !bits.is_empty()).map(|(pin, bits)| {
                let bits: Vec<String> = bits.iter().rev().map(bit).collect();
                match &bits[..] {
                    [one] => format!(".{}({one})", escaped(pin)),
                    many => format!(".{}({{{}}})", escaped(pin), many.join(", ")),
                }
            });
            let pins: Vec<String> = pins.collect();
            let _ = writeln!(text, "  {}{}({});", escaped(&c.kind), escaped(cell), pins.join(", "));
        }
        text.push_str("endmodule\n");
    }

    /// The name of what a flip-flop holds; some libraries have only those with an inverted output.
    fn register(&self, cell: &str) -> Option<String> {
        let names = self.names();
        let outputs = ["Q", "QN"].iter().filter_map(|pin| self.cells.get(cell)?.connections.get(*pin)?.first());
        for output in outputs {
            let Bit::Net(n) = output else { continue };
            if let Some(name) = names.get(n) {
                return Some(name.clone());
            }
            let inverters = self.cells.values().filter(|c| c.connections.len() == 2);
            let behind = inverters.filter(|c| c.connections.values().any(|b| b.first() == Some(output)));
            let mut others = behind.flat_map(|c| c.connections.values().flatten().filter(|b| *b != output));
            if let Some(name) = others.find_map(|b| if let Bit::Net(n) = b { names.get(n) } else { None }) {
                return Some(name.clone());
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"{ "modules": {
      "top": { "ports": {"clk": {"direction": "input", "bits": [2]}},
        "cells": { "inner": {"type": "leaf", "connections": {"clk": [2]}} }, "netnames": {} },
      "leaf": { "ports": {"clk": {"direction": "input", "bits": [2]}},
        "cells": {
          "u7": {"type": "dff", "connections": {"CLK": [2], "D": ["0"], "Q": [4]}},
          "u8": {"type": "dffn", "connections": {"CLK": [2], "D": ["x"], "QN": [5]}},
          "u9": {"type": "inv", "connections": {"A": [5], "Y": [6]}},
          "u10": {"type": "dff", "connections": {"CLK": [2], "D": ["1"], "Q": [7]}} },
        "netnames": { "sum": {"bits": [3, 4]}, "u1": {"bits": [5]}, "held": {"bits": [6]}, "u2": {"bits": [7]} } } } }"#;

    #[test]
    fn verilog_has_what_is_inside_first() {
        let netlist = Netlist::parse(TEXT).unwrap();
        let text = netlist.verilog("top");
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        assert_eq!(lines[0], r"module \leaf (\clk );");
        assert!(
            lines.contains(&r"assign n2 = \clk [0];")
                && lines.contains(&r"\dff \u7 (.\CLK (n2), .\D (1'b0), .\Q (n4));"),
            "{text}"
        );
        assert_eq!(lines.iter().filter(|l| **l == "endmodule").count(), 2);
    }

    #[test]
    fn registers_have_the_names_of_the_rtl() {
        let netlist = Netlist::parse(TEXT).unwrap();
        assert_eq!(netlist.register("top", "inner/u7", "Q"), "inner/sum[1]");
        assert_eq!(netlist.register("top", "inner/u8", "QN"), "inner/held");
        assert_eq!(netlist.register("top", "inner/u10", "Q"), "inner/u10/Q");
        assert_eq!(netlist.register("leaf", "", "clk"), "clk");
        assert_eq!(netlist.modules["leaf"].cells["u8"].connections["D"], [Bit::Constant(false)]);
        assert!(Netlist::parse("{}").is_err());
    }
}
