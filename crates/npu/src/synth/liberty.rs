//! A reader of the parts of Liberty files that reports need: areas of cells, energy and timing of memory macros.
//!
//! Liberty is nested groups, `name (arguments) { … }`, with attributes, `name : value ;` and `name (values) ;`.

use crate::NpuError;

/// A group and what is in it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Group {
    /// Its kind: `library`, `cell`, `pin` …
    pub kind: String,
    /// Its arguments, as written.
    pub arguments: String,
    /// Attributes in order; of complex ones the value is what stands between the parentheses.
    pub attributes: Vec<(String, String)>,
    /// Groups in order.
    pub groups: Vec<Group>,
}

impl Group {
    /// The groups of a kind.
    pub(super) fn of<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Group> {
        self.groups.iter().filter(move |g| g.kind == kind)
    }

    /// The group of a kind with these arguments.
    pub(super) fn named(&self, kind: &str, arguments: &str) -> Option<&Group> {
        self.groups.iter().find(|g| g.kind == kind && g.arguments == arguments)
    }

    /// An attribute.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|a| a.0 == name).map(|a| a.1.as_str())
    }

    /// An attribute that is a number.
    pub(super) fn number(&self, name: &str) -> Option<f64> {
        self.get(name)?.parse().ok()
    }

    /// The numbers of a table.
    pub(super) fn values(&self) -> Vec<f64> {
        let text = self.get("values").unwrap_or_default();
        text.split([',', ' ', '"', '\\', '\n', '\t']).filter_map(|n| n.parse().ok()).collect()
    }
}

/// Reads the library of a Liberty file.
///
/// # Errors
/// If braces or attributes are not closed, with the line.
pub(super) fn parse(text: &str) -> Result<Group, NpuError> {
    let mut reader = Reader { text, at: 0 };
    let mut root = Group::default();
    reader.body(&mut root, true, 0)?;
    match root.groups.into_iter().next() {
        Some(library) => Ok(library),
        None => Err(NpuError::Library("Liberty: no group `library`".into())),
    }
}

/// More levels than any library has; a limit for files that are none.
const DEEPEST: usize = 32;

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn error<T>(&self, what: &str) -> Result<T, NpuError> {
        let line = self.text[..self.at].matches('\n').count() + 1;
        Err(NpuError::Library(format!("Liberty, line {line}: {what}")))
    }

    fn skip(&mut self) -> Result<(), NpuError> {
        loop {
            let rest = self.rest();
            let blank =
                rest.len() - rest.trim_start_matches(|c: char| c.is_whitespace() || c == '\\' || c == ';').len();
            self.at += blank;
            if !self.rest().starts_with("/*") {
                return Ok(());
            }
            match self.rest().find("*/") {
                Some(end) => self.at += end + 2,
                None => return self.error("a comment that does not end"),
            }
        }
    }

    /// Up to one of the characters outside of quotes, which is not consumed.
    fn until(&mut self, stops: &[char]) -> Result<&'a str, NpuError> {
        let mut quoted = false;
        for (n, c) in self.rest().char_indices() {
            if c == '"' {
                quoted = !quoted;
            } else if !quoted && stops.contains(&c) {
                let found = &self.rest()[..n];
                self.at += n;
                return Ok(found);
            }
        }
        self.error("the file ends in the middle of an attribute")
    }

    fn body(&mut self, group: &mut Group, outermost: bool, depth: usize) -> Result<(), NpuError> {
        if depth > DEEPEST {
            return self.error("groups nested too deeply");
        }
        loop {
            self.skip()?;
            if self.rest().is_empty() {
                return if outermost { Ok(()) } else { self.error("the file ends inside of a group") };
            }
            if self.rest().starts_with('}') {
                if outermost {
                    return self.error("a brace too many");
                }
                self.at += 1;
                return Ok(());
            }
            let name = self.until(&[':', '(', '}', ';'])?.trim().to_string();
            match self.rest().chars().next() {
                Some(':') => {
                    self.at += 1;
                    let value = self.until(&[';', '}', '\n'])?.trim().trim_matches('"').to_string();
                    group.attributes.push((name, value));
                }
                Some('(') => {
                    self.at += 1;
                    let arguments = self.until(&[')'])?.to_string();
                    self.at += 1;
                    let rest = self.rest().trim_start();
                    if rest.starts_with('{') {
                        self.at = self.text.len() - rest.len() + 1;
                        let arguments = arguments.trim().trim_matches('"').to_string();
                        let mut inner = Group { kind: name, arguments, ..Group::default() };
                        self.body(&mut inner, false, depth + 1)?;
                        group.groups.push(inner);
                    } else {
                        group.attributes.push((name, arguments));
                    }
                }
                _ => return self.error(&format!("`{name}` is neither an attribute nor a group")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"
/* A library. */
library (small) {
  capacitive_load_unit (1, pf) ;
  time_unit : "1ns";
  cell (nand2) {
    area : 7.2576;
    pin ("Y") { direction : output; function : "!(A*B)" }
    pin (A) {
      internal_power() { when : "!B & A"; rise_power("scalar") { values (0.5); } }
    }
  }
  cell(inv) { area : 5.4 ; table () { values ("1.0, 2.0", \
    "3.0,4.0"); } }
}
"#;

    #[test]
    fn groups_attributes_and_tables_are_read() {
        let library = parse(SMALL).unwrap();
        assert_eq!((library.kind.as_str(), library.arguments.as_str()), ("library", "small"));
        assert_eq!(library.get("time_unit"), Some("1ns"));
        let nand = library.named("cell", "nand2").unwrap();
        assert_eq!(nand.number("area"), Some(7.2576));
        assert_eq!(nand.named("pin", "Y").unwrap().get("function"), Some("!(A*B)"));
        let power = nand.named("pin", "A").unwrap().of("internal_power").next().unwrap();
        assert_eq!((power.get("when"), power.groups[0].values()), (Some("!B & A"), vec![0.5]));
        assert_eq!(library.named("cell", "inv").unwrap().groups[0].values(), [1.0, 2.0, 3.0, 4.0]);
    }

    #[test]
    fn what_is_not_closed_is_an_error_with_its_line() {
        for (text, message) in [
            ("library (x) {\n cell (y) {", "line 2"),
            ("library (x) {\n area : 5", "in the middle"),
            ("/* x", "comment"),
            ("}", "too many"),
            ("", "no group"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(message), "{text}: {error}");
        }
        assert!(parse(&"g () {".repeat(100_000)).unwrap_err().to_string().contains("deeply"));
    }
}
