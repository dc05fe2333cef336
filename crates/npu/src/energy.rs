//! Energy of a run: what was counted, times a table of what each operation takes.

use serde::Deserialize;

use crate::{Config, NpuError, simulate::Counters};

/// Picojoules of the chip's operations, with where they come from.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnergyTable {
    /// Its name.
    pub name: String,
    /// Where the figures come from.
    pub source: String,
    /// What they do not count.
    pub leaves_out: String,
    /// One pair of planes in one element that is in use.
    pub element: f64,
    /// A word read of the activation memory.
    pub activation_read: f64,
    /// A part of a word written to it.
    pub activation_write: f64,
    /// 64 bits read of the weight memory.
    pub weight_read: f64,
    /// A bias and scale read.
    pub parameter_read: f64,
    /// A step of the auxiliary unit: nine taps of 64 lanes, one plane.
    pub aux_step: f64,
    /// One element requantized.
    pub post_element: f64,
    /// An instruction fetched.
    pub instruction: f64,
}

/// The tables that come with the library, by name; the first is the one that is used where none is named.
const TABLES: [(&str, &str); 3] = [
    ("published-45nm", include_str!("../energy/published-45nm.toml")),
    ("asap7", include_str!("../energy/asap7.toml")),
    ("ihp-sg13g2", include_str!("../energy/ihp-sg13g2.toml")),
];

impl EnergyTable {
    /// The table of published 45 nm figures.
    ///
    /// # Errors
    /// Never; the text is tested.
    pub fn published() -> Result<EnergyTable, NpuError> {
        EnergyTable::parse(TABLES[0].1)
    }

    /// A table that comes with the library: `published-45nm`, `asap7` or `ihp-sg13g2`; nothing if it is none of these.
    pub fn named(name: &str) -> Option<EnergyTable> {
        let (_, text) = TABLES.iter().find(|t| t.0 == name)?;
        EnergyTable::parse(text).ok()
    }

    /// Reads a table from TOML.
    ///
    /// # Errors
    /// If a figure is missing, or not positive.
    pub fn parse(text: &str) -> Result<EnergyTable, NpuError> {
        let table: EnergyTable = toml::from_str(text).map_err(|e| NpuError::Config(e.to_string()))?;
        let figures = [
            table.element,
            table.activation_read,
            table.activation_write,
            table.weight_read,
            table.parameter_read,
            table.aux_step,
            table.post_element,
            table.instruction,
        ];
        match figures.iter().find(|f| !(f.is_finite() && **f >= 0.0)) {
            Some(bad) => Err(NpuError::Config(format!("energy table `{}`: {bad} pJ", table.name))),
            None => Ok(table),
        }
    }

    /// Microjoules of a run by part, in a fixed order.
    pub fn parts(&self, counters: &Counters, config: &Config) -> Vec<(&'static str, f64)> {
        let columns = config.columns as f64;
        let micro = |n: u64, picojoules: f64| n as f64 * picojoules * 1e-6;
        vec![
            ("array", micro(counters.element_cycles, self.element)),
            ("aux", micro(counters.aux_steps, self.aux_step)),
            ("post", micro(counters.vectors, self.post_element * columns)),
            (
                "activations",
                micro(counters.reads, self.activation_read) + micro(counters.written, self.activation_write),
            ),
            ("weights", micro(counters.weight_reads, self.weight_read * columns)),
            ("parameters", micro(counters.vectors, self.parameter_read * columns)),
            ("instructions", micro(counters.instructions, self.instruction)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_counts_times_figures() {
        let table = EnergyTable::published().unwrap();
        let counters = Counters { element_cycles: 1_000_000, vectors: 1000, ..Counters::default() };
        let parts = table.parts(&counters, &Config::preset("core").unwrap());
        let of = |name: &str| parts.iter().find(|p| p.0 == name).unwrap().1;
        assert!((of("array") - 1.34).abs() < 1e-9);
        assert!((of("post") - 1000.0 * 16.0 * 3.8e-6).abs() < 1e-9);
        assert_eq!(of("weights"), 0.0);
        assert!(EnergyTable::parse("name = \"x\"").is_err());
    }

    #[test]
    fn the_tables_have_the_names_they_are_known_by() {
        for (name, _) in TABLES {
            assert_eq!(EnergyTable::named(name).map(|t| t.name).as_deref(), Some(name));
        }
        assert_eq!(EnergyTable::named("28nm"), None);
    }
}
