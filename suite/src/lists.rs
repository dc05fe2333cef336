use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// What became of the cases, by name: nothing, or why it failed.
pub type Outcome = BTreeMap<String, Option<String>>;

/// A committed list of the cases that pass (`passing.txt`, a name a line) and of those that do not (`failing.txt`, name,
/// tab, reason), so that a change in either direction is seen in review.
#[derive(Debug)]
pub struct CaseList {
    folder: PathBuf,
}

impl CaseList {
    /// The list in `folder`.
    pub fn new(folder: impl Into<PathBuf>) -> CaseList {
        CaseList { folder: folder.into() }
    }

    /// Compares an outcome with the list; with `QING_UPDATE=1` in the environment, writes it instead.
    ///
    /// # Errors
    /// What changed, and how to accept it. Reasons are not compared: they serve the reader.
    pub fn check(&self, outcome: &Outcome) -> Result<(), String> {
        if std::env::var_os("QING_UPDATE").is_some_and(|v| v == "1") {
            return self.write(outcome).map_err(|e| format!("{}: {e}", self.folder.display()));
        }
        let listed = lines(&self.folder.join("passing.txt"))?;
        let passing: BTreeSet<&str> =
            outcome.iter().filter(|(_, why)| why.is_none()).map(|(n, _)| n.as_str()).collect();
        let mut text = String::new();
        for name in listed.iter().filter(|n| !passing.contains(n.as_str())) {
            let why = outcome.get(name).and_then(Option::as_deref).unwrap_or("there is no such case");
            text += &format!("\n  {name} is listed as passing, but: {why}");
        }
        for name in passing.iter().filter(|n| !listed.contains(**n)) {
            text += &format!("\n  {name} passes, but is not listed");
        }
        if text.is_empty() {
            return Ok(());
        }
        Err(format!(
            "the list in {} is not what happened (to accept: QING_UPDATE=1 cargo test -p qing-suite){text}",
            self.folder.display()
        ))
    }

    fn write(&self, outcome: &Outcome) -> std::io::Result<()> {
        let passing: String = outcome.iter().filter(|(_, why)| why.is_none()).map(|(n, _)| format!("{n}\n")).collect();
        let failing: String = outcome
            .iter()
            .filter_map(|(name, why)| Some((name, why.as_ref()?)))
            .map(|(name, why)| format!("{name}\t{}\n", one_line(why)))
            .collect();
        fs::create_dir_all(&self.folder)?;
        fs::write(self.folder.join("passing.txt"), passing)?;
        fs::write(self.folder.join("failing.txt"), failing)
    }
}

/// The first line of a reason, cut at a length that reads well in a list.
fn one_line(why: &str) -> String {
    why.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(160).collect()
}

fn lines(path: &Path) -> Result<BTreeSet<String>, String> {
    let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(text.lines().map(str::to_string).collect())
}
