//! The tables of fields in `docs/isa.md`.

use std::fmt::Write;

use super::{Opcode, legal::RULES};

/// The fields of every instruction, and the rules for their values, as Markdown tables; `docs/isa.md` holds them between two markers.
pub fn markdown() -> String {
    let mut text = String::new();
    for op in Opcode::ALL {
        let queue = op.queue().map_or("every queue", |q| q.name());
        let _ = writeln!(text, "### `{}`: opcode {}, {queue}\n", op.name(), op.number());
        if op.fields().is_empty() {
            text.push_str("No fields.\n\n");
            continue;
        }
        text.push_str("| field | word | bits | holds | meaning |\n|---|---|---|---|---|\n");
        let mut fields = op.fields();
        fields.sort_by_key(|f| (f.word, f.low));
        for f in fields {
            let (low, high) = f.range();
            let coded = if f.minus_one {
                ", value − 1"
            } else if f.signed {
                ", two's complement"
            } else {
                ""
            };
            let (top, word) = (f.low + f.bits - 1, f.word);
            let _ = writeln!(text, "| `{}` | {word} | {top}:{} | {low} … {high}{coded} | {} |", f.name, f.low, f.docs);
        }
        text.push('\n');
    }
    text.push_str("### Values of fields\n\nAn instruction is illegal as well where one of these does not hold.\n\n| instructions | must hold |\n|---|---|\n");
    for rule in &RULES {
        let names: Vec<String> = rule.opcodes.iter().map(|op| format!("`{}`", op.name())).collect();
        let _ = writeln!(text, "| {} | {} |", names.join(", "), rule.text);
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_specification_has_these_tables() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/isa.md");
        let text = std::fs::read_to_string(path).unwrap();
        let (begin, end) = ("<!-- fields: begin -->\n", "<!-- fields: end -->");
        let (start, stop) = (text.find(begin).unwrap() + begin.len(), text.find(end).unwrap());
        if std::env::var_os("QING_UPDATE").is_some() {
            let new = format!("{}\n{}{}", &text[..start], super::markdown(), &text[stop..]);
            std::fs::write(path, new).unwrap();
        } else {
            assert_eq!(
                text[start..stop].trim(),
                super::markdown().trim(),
                "QING_UPDATE=1 cargo test -p qing-npu writes it"
            );
        }
    }
}
