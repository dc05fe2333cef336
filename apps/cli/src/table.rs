//! Tables for a terminal: a header, a rule, rows; numbers to the right.

/// How a column is aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// A table under construction.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table whose columns are `name` (text) or `>name` (numbers).
    pub(crate) fn new(columns: &[&str]) -> Table {
        let column = |c: &&str| match c.strip_prefix('>') {
            Some(name) => (name.to_string(), Align::Right),
            None => (c.to_string(), Align::Left),
        };
        Table { columns: columns.iter().map(column).collect(), rows: vec![] }
    }

    /// Adds a row; missing cells are empty.
    pub(crate) fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// Rows so far.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// The text, ending with a line end.
    pub(crate) fn render(&self) -> String {
        let cell = |row: &[String], i: usize| row.get(i).cloned().unwrap_or_default();
        let width = |i: usize| {
            let cells = self.rows.iter().map(|r| cell(r, i).chars().count());
            cells.chain([self.columns[i].0.chars().count()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let join = |row: &[String]| {
            let cells = self.columns.iter().enumerate().map(|(i, (_, align))| {
                let (text, width) = (cell(row, i), widths[i]);
                if *align == Align::Right { format!("{text:>width$}") } else { format!("{text:<width$}") }
            });
            cells.collect::<Vec<_>>().join("  ").trim_end().to_string()
        };
        let header: Vec<String> = self.columns.iter().map(|(name, _)| name.clone()).collect();
        let rule: Vec<String> = widths.iter().map(|w| "─".repeat(*w)).collect();
        let lines = [&header, &rule].into_iter().chain(&self.rows).map(|row| join(row));
        lines.map(|line| line + "\n").collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut t = Table::new(&["name", ">ms"]);
        t.row(["a", "1.5"]);
        t.row(["größe"]);
        assert_eq!(t.render(), "name    ms\n─────  ───\na      1.5\ngröße\n");
    }
}
