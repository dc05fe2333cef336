//! What the tools report, read: cells by module of Yosys, paths and power of OpenSTA, the summary of nextpnr.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::NpuError;

/// Of a module, what is in it but not in modules inside.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub(super) struct Module {
    /// Area of its cells, in the unit of the library: µm².
    #[serde(default)]
    pub area: f64,
    /// How many of each cell, and of each module inside.
    pub num_cells_by_type: BTreeMap<String, usize>,
}

/// The modules of `stat -json`, by name.
///
/// # Errors
/// If it is not such a report.
pub(super) fn modules(text: &str) -> Result<BTreeMap<String, Module>, NpuError> {
    #[derive(Deserialize)]
    struct Statistics {
        modules: BTreeMap<String, Module>,
    }
    let read: Statistics =
        serde_json::from_str(text).map_err(|e| NpuError::Library(format!("the statistics of Yosys: {e}")))?;
    let all: BTreeMap<String, Module> =
        read.modules.into_iter().map(|(name, m)| (name.trim_start_matches('\\').to_string(), m)).collect();
    // Yosys counts what is inside of a module with it.
    let inside = |m: &Module| -> f64 {
        m.num_cells_by_type.iter().filter_map(|(kind, n)| Some(all.get(kind)?.area * *n as f64)).sum()
    };
    Ok(all.iter().map(|(name, m)| (name.clone(), Module { area: m.area - inside(m), ..m.clone() })).collect())
}

/// A step of a path: the pin that the signal leaves a cell by.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stage {
    /// Nanoseconds that it adds.
    pub delay: f64,
    /// Path of the instance.
    pub instance: String,
    /// The pin.
    pub pin: String,
    /// The cell.
    pub cell: String,
}

/// The slowest path.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Path {
    /// From the register (or port) it starts at to the one it ends at.
    pub stages: Vec<Stage>,
    /// What is left of the period, ns.
    pub slack: f64,
}

/// The first path of OpenSTA's `report_checks -format full`; times in ns per `unit`.
///
/// # Errors
/// If there is none.
pub(super) fn path(text: &str, unit: f64) -> Result<Path, NpuError> {
    let mut path = Path::default();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        // Delay, time, edge, instance/pin, (cell).
        if let [delay, _, "^" | "v", pin, cell] = words[..]
            && let (Ok(delay), Some(cell)) = (delay.parse::<f64>(), cell.strip_prefix('('))
        {
            let pin = pin.replace('\\', "");
            let (instance, pin) = pin.rsplit_once('/').unwrap_or(("", &pin));
            let (instance, pin) = (instance.to_string(), pin.to_string());
            path.stages.push(Stage { delay: delay * unit, instance, pin, cell: cell.trim_end_matches(')').into() });
        }
        if let [slack, "slack", ..] = words[..]
            && let Ok(slack) = slack.parse::<f64>()
        {
            path.slack = slack * unit;
            return Ok(path);
        }
    }
    Err(NpuError::Library("OpenSTA reports no path: is nothing clocked?".into()))
}

/// Watts of OpenSTA's `report_power -instances`, by instance: internal, switching, leakage.
pub(super) fn instances(text: &str) -> BTreeMap<String, [f64; 3]> {
    let mut powers = BTreeMap::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [internal, switching, leakage, _, name] = words[..]
            && let (Ok(i), Ok(s), Ok(l)) = (internal.parse(), switching.parse(), leakage.parse())
        {
            powers.insert(name.replace('\\', ""), [i, s, l]);
        }
    }
    powers
}

/// What place and route came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Routed {
    /// Kinds of resources: used and there.
    pub used: BTreeMap<String, (u64, u64)>,
    /// The clock's frequency, MHz.
    pub mhz: f64,
    /// The slowest path: nanoseconds of logic and of wires, and the cells it goes through.
    pub logic_ns: f64,
    /// Of its wires.
    pub wires_ns: f64,
    /// Where it begins and ends.
    pub ends: (String, String),
}

/// The JSON report of nextpnr.
///
/// # Errors
/// If it is not such a report, or has no clock.
pub(super) fn routed(text: &str) -> Result<Routed, NpuError> {
    #[derive(Deserialize)]
    struct Report {
        utilization: BTreeMap<String, Used>,
        fmax: BTreeMap<String, Frequency>,
        critical_paths: Vec<Critical>,
    }
    #[derive(Deserialize)]
    struct Used {
        available: u64,
        used: u64,
    }
    #[derive(Deserialize)]
    struct Frequency {
        achieved: f64,
    }
    #[derive(Deserialize)]
    struct Critical {
        from: String,
        to: String,
        path: Vec<Step>,
    }
    #[derive(Deserialize)]
    struct Step {
        delay: f64,
        #[serde(rename = "type")]
        kind: String,
        from: End,
        to: End,
    }
    #[derive(Deserialize)]
    struct End {
        cell: String,
    }
    let bad = |e: String| NpuError::Library(format!("the report of nextpnr: {e}"));
    let report: Report = serde_json::from_str(text).map_err(|e| bad(e.to_string()))?;
    let mhz = report.fmax.values().map(|f| f.achieved).fold(f64::INFINITY, f64::min);
    if !mhz.is_finite() {
        return Err(bad("no clock".into()));
    }
    let clocked = |c: &&Critical| c.from.starts_with("posedge") && c.to.starts_with("posedge");
    let slowest = report.critical_paths.iter().find(clocked);
    let steps = slowest.map_or(&[][..], |c| &c.path);
    let sum = |wires: bool| steps.iter().filter(|s| (s.kind == "routing") == wires).map(|s| s.delay).sum();
    let end = |step: Option<&Step>, of: fn(&Step) -> &End| step.map_or(String::new(), |s| of(s).cell.clone());
    let utilization = report.utilization.into_iter().filter(|(_, u)| u.used > 0);
    Ok(Routed {
        used: utilization.map(|(k, u)| (k, (u.used, u.available))).collect(),
        mhz,
        logic_ns: sum(false),
        wires_ns: sum(true),
        ends: (end(steps.first(), |s| &s.from), end(steps.last(), |s| &s.to)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_are_those_of_modules_without_what_is_inside() {
        let found = modules(include_str!("samples/stat.json")).unwrap();
        assert_eq!(found["npu_element"].area, 11920.608);
        assert_eq!(found["npu_element"].num_cells_by_type["sg13g2_dfrbpq_1"], 83);
        assert_eq!(found["npu_array"].num_cells_by_type["npu_element"], 36);
        assert!((found["npu_array"].area - 1452.0).abs() < 1e-6, "{}", found["npu_array"].area);
        assert!(modules("{}").unwrap_err().to_string().contains("statistics of Yosys"));
    }

    #[test]
    fn the_first_path_with_its_cells_and_slack() {
        let found = path(include_str!("samples/checks.txt"), 1.0).unwrap();
        assert_eq!((found.stages.len(), found.slack), (6, -0.6053));
        let last = &found.stages[4];
        assert_eq!((last.instance.as_str(), last.pin.as_str()), ("array/row[0].column[0].element/u1406", "Y"));
        assert_eq!((last.cell.as_str(), last.delay), ("sg13g2_xnor2_1", 0.1177));
        assert!(path("No paths found.", 1.0).is_err());
    }

    #[test]
    fn power_by_instance() {
        let found = instances(include_str!("samples/power.txt"));
        assert_eq!(found["u1968"], [2.121506e-05, 0.0, 5.10516e-10]);
        assert_eq!(found.len(), 3);
    }

    #[test]
    fn resources_and_frequency_after_routing() {
        let found = routed(include_str!("samples/nextpnr.json")).unwrap();
        assert_eq!(found.used["TRELLIS_COMB"], (320, 83640));
        assert_eq!(found.mhz, 133.5);
        assert!((found.logic_ns - 1.25).abs() < 1e-9 && (found.wires_ns - 2.5).abs() < 1e-9);
        assert_eq!(found.ends, ("sum_q".into(), "main_d".into()));
        assert!(routed("{\"utilization\":{},\"fmax\":{},\"critical_paths\":[]}").is_err());
    }
}
