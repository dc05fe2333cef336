//! Area of a chip: parts that were synthesized, times how many of them its sizes ask for.

use serde::Deserialize;

use crate::{Config, NpuError, synth::memories};

/// Square micrometres of the chip's parts, with where they come from.
///
/// Parts that grow with the sizes of a chip count by what they grow with: the table says what one costs.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AreaTable {
    /// Its name.
    pub name: String,
    /// Where the figures come from.
    pub source: String,
    /// What they do not count.
    pub leaves_out: String,
    /// One element; every row has one more than the array has columns, which sums activations.
    pub element: f64,
    /// The operand buffers of a row or of a column.
    pub operand_buffer: f64,
    /// One requantizer; there is one a column.
    pub requantizer: f64,
    /// What else the post unit has for a column.
    pub post_column: f64,
    /// A lane of the auxiliary unit, but for what it keeps for each of its turns: of all lanes together that is the same however many there are, and in
    /// `control`.
    pub lane: f64,
    /// What the load unit has for a row.
    pub load_row: f64,
    /// The activation memory's arbiter, for a pair of banks: it connects each with each.
    pub arbiter: f64,
    /// What every chip has once: sequencer, control, streams, the rest of the units.
    pub control: f64,
    /// Memory, a bit; for processes without macros.
    pub bit: Option<f64>,
    /// Memory macros of 64 bits: their words, and what one takes.
    #[serde(default)]
    pub macros: Vec<(usize, f64)>,
}

/// The tables that come with the library, by name.
const TABLES: [(&str, &str); 2] =
    [("asap7", include_str!("../area/asap7.toml")), ("ihp-sg13g2", include_str!("../area/ihp-sg13g2.toml"))];

impl AreaTable {
    /// A table that comes with the library: `asap7` or `ihp-sg13g2`; nothing if it is neither.
    pub fn named(name: &str) -> Option<AreaTable> {
        let (_, text) = TABLES.iter().find(|t| t.0 == name)?;
        AreaTable::parse(text).ok()
    }

    /// Reads a table from TOML.
    ///
    /// # Errors
    /// If a figure is missing or negative, or nothing says what memory takes.
    pub fn parse(text: &str) -> Result<AreaTable, NpuError> {
        let table: AreaTable = toml::from_str(text).map_err(|e| NpuError::Config(e.to_string()))?;
        let parts = [table.element, table.operand_buffer, table.requantizer, table.post_column];
        let others = [table.lane, table.load_row, table.arbiter, table.control];
        let memory = table.bit.iter().chain(table.macros.iter().map(|m| &m.1));
        let bad = |what: String| Err(NpuError::Config(format!("area table `{}`: {what}", table.name)));
        if let Some(figure) = parts.iter().chain(&others).chain(memory).find(|f| !(f.is_finite() && **f >= 0.0)) {
            return bad(format!("{figure} µm²"));
        }
        if table.bit.is_some() != table.macros.is_empty() {
            return bad("either `bit` or `macros` says what memory takes".into());
        }
        if table.macros.iter().any(|m| m.0 == 0) {
            return bad("a macro without words".into());
        }
        Ok(table)
    }

    /// Square micrometres of a chip's logic by part, in a fixed order.
    pub fn parts(&self, config: &Config) -> Vec<(&'static str, f64)> {
        let [rows, columns, banks] = [config.rows, config.columns, config.banks].map(|n| n as f64);
        vec![
            ("elements", rows * (columns + 1.0) * self.element),
            ("operand buffers", (rows + columns) * self.operand_buffer),
            ("requantizers", columns * self.requantizer),
            ("aux lanes", config.aux_lanes as f64 * self.lane),
            ("arbiter", banks * banks * self.arbiter),
            ("load, post, control", rows * self.load_row + columns * self.post_column + self.control),
        ]
    }

    /// Square micrometres of a chip's logic.
    pub fn logic(&self, config: &Config) -> f64 {
        self.parts(config).iter().map(|p| p.1).sum()
    }

    /// Square micrometres of a chip's memories.
    pub fn memories(&self, config: &Config) -> f64 {
        memories::of(config).iter().map(|m| m.instances as f64 * self.memory(m.words)).sum()
    }

    /// Square micrometres of a memory of so many words of 64 bits.
    fn memory(&self, words: usize) -> f64 {
        match self.bit {
            Some(bit) => (words * 64) as f64 * bit,
            None => memories::least_area(words, &self.macros).map_or(0.0, |(area, _)| area),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Logic of whole chips, with so many auxiliary lanes, as `qing npu synth --unit top` measured it, µm².
    const SYNTHESIZED: [(&str, &str, usize, f64); 5] = [
        ("asap7", "nano", 8, 29_521.0),
        ("asap7", "edge", 16, 38_030.0),
        ("asap7", "core", 64, 81_502.0),
        ("ihp-sg13g2", "nano", 8, 3_853_401.0),
        ("ihp-sg13g2", "core", 64, 11_386_949.0),
    ];

    #[test]
    fn tables_give_what_was_synthesized() {
        for (name, preset, aux_lanes, measured) in SYNTHESIZED {
            let config = Config { aux_lanes, ..Config::preset(preset).unwrap() };
            let area = AreaTable::named(name).unwrap().logic(&config);
            assert!((area / measured - 1.0).abs() < 0.02, "{name}, {preset}: {area:.0} of {measured:.0} µm²");
        }
    }

    #[test]
    fn memories_are_bits_or_macros() {
        let config = Config::preset("nano").unwrap();
        let of = |table: &AreaTable| table.memories(&config);
        let bits: usize = memories::of(&config).iter().map(|m| m.instances * m.words * m.bits).sum();
        let seven = AreaTable::named("asap7").unwrap();
        assert!((of(&seven) - bits as f64 * seven.bit.unwrap()).abs() < 1e-6);
        // Macros have whole sizes: what they take is more than the bits at the density of the largest.
        let ihp = AreaTable::named("ihp-sg13g2").unwrap();
        let densest = ihp.macros.iter().map(|(words, area)| area / (words * 64) as f64).fold(f64::MAX, f64::min);
        assert!(of(&ihp) > bits as f64 * densest);
    }

    #[test]
    fn bad_tables_are_refused() {
        let good = TABLES[0].1;
        for (from, to) in [("bit = ", "# bit = "), ("element = ", "element = -"), ("lane = ", "lame = ")] {
            assert!(good.contains(from));
            assert!(AreaTable::parse(&good.replacen(from, to, 1)).is_err(), "{to}");
        }
        assert_eq!(AreaTable::named("28nm"), None);
    }
}
