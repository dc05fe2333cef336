//! What can be built for: cell libraries, and what a flow must know of each.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use flate2::read::GzDecoder;

use crate::NpuError;

/// What the chip is built of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// ASAP7, a predictive 7 nm library (BSD-3-Clause), typical corner.
    Asap7,
    /// IHP SG13G2, an open 130 nm process (Apache-2.0), typical corner, with its memory macros.
    IhpSg13g2,
    /// A Lattice ECP5-85F.
    Ecp5,
}

impl Target {
    /// All of them, with their names.
    pub const ALL: [(&'static str, Target); 3] =
        [("asap7", Target::Asap7), ("ihp-sg13g2", Target::IhpSg13g2), ("ecp5", Target::Ecp5)];

    /// Its name.
    pub fn name(self) -> &'static str {
        Target::ALL.iter().find(|t| t.1 == self).map_or("", |t| t.0)
    }

    /// The cell library, unless this is an FPGA.
    pub(super) fn technology(self) -> Option<&'static Technology> {
        match self {
            Target::Asap7 => Some(&ASAP7),
            Target::IhpSg13g2 => Some(&IHP),
            Target::Ecp5 => None,
        }
    }
}

/// What a flow must know of a cell library.
#[derive(Debug)]
pub(super) struct Technology {
    /// What its Liberty files are called: one file for each, the first that begins and ends so.
    pub files: &'static [(&'static str, &'static str)],
    /// What those of memory macros begin with, if there are any.
    pub macros: Option<&'static str>,
    /// The cell that gates a clock: name, enable, clock, gated clock, and an input that stays at 0.
    pub gate: (&'static str, &'static str, &'static str, &'static str, Option<&'static str>),
    /// The buffer of nets that drive much: name, input, output.
    pub buffer: (&'static str, &'static str, &'static str),
    /// Inputs of that buffer that one gate may drive.
    pub fanout: f64,
}

const ASAP7: Technology = Technology {
    files: &[
        ("asap7sc7p5t_SEQ_RVT_TT", ".lib"),
        ("asap7_SIMPLE_RVT_TT", ".lib"),
        ("asap7_INVBUF_RVT_TT", ".lib"),
        ("asap7_AO_RVT_TT", ".lib"),
        ("asap7_OA_RVT_TT", ".lib"),
    ],
    macros: None,
    gate: ("ICGx1_ASAP7_75t_R", "ENA", "CLK", "GCLK", Some("SE")),
    buffer: ("BUFx8_ASAP7_75t_R", "A", "Y"),
    fanout: 16.0,
};

const IHP: Technology = Technology {
    files: &[("sg13g2_stdcell_typ", ".lib")],
    macros: Some("RM_IHPSG13_1P_"),
    gate: ("sg13g2_lgcp_1", "GATE", "CLK", "GCLK", None),
    buffer: ("sg13g2_buf_8", "A", "X"),
    fanout: 16.0,
};

/// The Liberty files among what was given, files and folders; compressed ones (`.lib.gz`) count.
///
/// # Errors
/// If a folder cannot be read.
pub(super) fn liberty_files(given: &[PathBuf]) -> Result<Vec<PathBuf>, NpuError> {
    let mut files = Vec::new();
    for path in given {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let entries = fs::read_dir(path).map_err(|e| NpuError::Library(format!("{}: {e}", path.display())))?;
        let mut inside: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
        inside.retain(|p| plain(p).is_some());
        inside.sort();
        files.extend(inside);
    }
    Ok(files)
}

/// The name of a Liberty file without what compression adds.
fn plain(path: &Path) -> Option<&str> {
    let name = path.file_name()?.to_str()?;
    let name = name.strip_suffix(".gz").unwrap_or(name);
    name.ends_with(".lib").then_some(name)
}

/// The text of a Liberty file.
pub(super) fn read(path: &Path) -> Result<String, NpuError> {
    let failed = |e: std::io::Error| NpuError::Library(format!("{}: {e}", path.display()));
    let bytes = fs::read(path).map_err(failed)?;
    let mut text = Vec::new();
    if bytes.starts_with(&[0x1f, 0x8b]) {
        GzDecoder::new(&bytes[..]).read_to_end(&mut text).map_err(failed)?;
    } else {
        text = bytes;
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

impl Technology {
    /// Picks the library's files among those given, and puts plain copies into a folder, for tools that cannot unpack. Gives their names.
    ///
    /// # Errors
    /// If one is missing: says which, and where it could have been.
    pub(super) fn collect(&self, given: &[PathBuf], folder: &Path) -> Result<Vec<String>, NpuError> {
        let files = liberty_files(given)?;
        let mut names = Vec::new();
        for (start, end) in self.files {
            let found = files.iter().find(|p| plain(p).is_some_and(|n| n.starts_with(start) && n.ends_with(end)));
            let Some(path) = found else {
                return Err(NpuError::Library(format!(
                    "no Liberty file {start}*{end} among what was given: name the files, or their folder, with --liberty"
                )));
            };
            let name = plain(path).unwrap_or_default().to_string();
            let to = folder.join(&name);
            fs::write(&to, read(path)?).map_err(|e| NpuError::Library(format!("{}: {e}", to.display())))?;
            names.push(name);
        }
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = IHP.collect(&[], folder.path()).unwrap_err().to_string();
        assert!(error.contains("sg13g2_stdcell_typ*.lib"), "{error}");
        fs::write(folder.path().join("sg13g2_stdcell_typ_1p20V_25C.lib"), "library (x) {}").unwrap();
        let out = tempfile::tempdir().unwrap();
        let names = IHP.collect(&[folder.path().into()], out.path()).unwrap();
        assert_eq!(names, ["sg13g2_stdcell_typ_1p20V_25C.lib"]);
        assert_eq!(fs::read_to_string(out.path().join(&names[0])).unwrap(), "library (x) {}");
    }
}
