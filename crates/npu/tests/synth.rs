//! Units in standard cells, by the tools themselves. Needs QING_LIBERTY (a folder with the Liberty files of SG13G2), a Python with `pyosys`
//! in QING_PYTHON, and OpenSTA: `suite/npu/run` brings them together.

use std::{env, path::PathBuf};

use qing_npu::{
    Config,
    simulate::Operands,
    synth::{Cells, Figures, Job, Target, Tools, Unit, synthesize},
};

/// The figures of a unit, or nothing where the tools are not named.
fn cells(unit: Unit, operands: &[Operands]) -> Option<Cells> {
    let (Some(library), Some(python)) = (env::var_os("QING_LIBERTY"), env::var_os("QING_PYTHON")) else {
        eprintln!("skipped: QING_LIBERTY and QING_PYTHON are not set");
        return None;
    };
    let folder = tempfile::tempdir().unwrap();
    let config = Config::preset("nano").unwrap();
    let job = Job {
        config: &config,
        unit,
        target: Target::IhpSg13g2,
        clock_mhz: 100.0,
        libraries: &[PathBuf::from(library)],
        operands,
        folder: folder.path(),
        tools: &Tools { python: python.into(), sta: "sta".into() },
    };
    match synthesize(&job).unwrap().figures {
        Figures::Cells(cells) => Some(cells),
        Figures::Fpga(_) => unreachable!("a cell library"),
    }
}

/// The netlist computes what it was given, or there is an error: so this holds the mapped element to the arithmetic.
#[test]
fn an_element_in_cells_computes_and_is_measured() {
    let mut state = 1u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state ^ state >> 29
    };
    let groups: Vec<Operands> = (0..64)
        .map(|n| Operands {
            activations: std::array::from_fn(|_| random()),
            weights: std::array::from_fn(|_| random()),
            bits: if n < 32 { (4, 4) } else { (8, 2) },
            signed: (n % 2 == 0, n % 3 == 0),
            first: n % 4 == 0,
            last: n % 4 == 3,
        })
        .collect();
    let Some(element) = cells(Unit::Element, &groups) else { return };
    // 20 + 7 + 23 + 32 bits of state.
    assert_eq!(element.flip_flops, 82);
    assert!((8_000.0..16_000.0).contains(&element.area_um2), "{} µm²", element.area_um2);
    assert!(element.path.mhz > 100.0 && !element.path.through.is_empty(), "{:?}", element.path);
    let [four, eight] = &element.energy[..] else { panic!("{:?}", element.energy) };
    assert_eq!((four.stimulus.as_str(), eight.stimulus.as_str()), ("4 x 4 bits", "8 x 2 bits"));
    assert!(four.picojoules > four.clock_picojoules && four.clock_picojoules > four.leakage_picojoules, "{four:?}");
}
